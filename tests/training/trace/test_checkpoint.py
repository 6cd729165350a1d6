"""A trace's bytes of a checkpoint against the files that real ranks write, and what they read."""

import math
import sys
from pathlib import Path

import pytest
import yaml
from torch.distributed.checkpoint import FileSystemReader

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.training.arithmetic.checkpoint_share import CheckpointShare, checkpoint_share
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row
from megatron_in2.training.trace.program import run_rank
from tests.training.conftest import WriteConfig
from tests.training.trace.cases import RANKS, run

LAYOUTS = {
    "TP2+SP DP2": {"tensor": 2, "sequence": True},
    "TP2 CP2": {"tensor": 2, "context": 2},
    "PP2 DP2": {"pipeline": 2},
    "DP4": {},
}


def written_bytes(step: Path, ranks: int) -> list[int]:
    """Return the bytes of the tensors in each rank's files of a saved step.

    The files hold no more than that and about a kilobyte for each tensor.
    """
    metadata = FileSystemReader(step).read_metadata()
    sizes = [0] * ranks
    counts = [0] * ranks
    for place, stored in metadata.storage_data.items():
        of_tensor = metadata.state_dict_metadata[place.fqn]
        if not hasattr(of_tensor, "chunks"):
            continue
        rank = int(stored.relative_path.split("_")[2])
        (chunk,) = (each for each in of_tensor.chunks if each.offsets == place.offset)
        sizes[rank] += math.prod(chunk.sizes) * of_tensor.properties.dtype.itemsize
        counts[rank] += 1
    for rank in range(ranks):
        on_disk = sum(path.stat().st_size for path in step.glob(f"__{rank}_*"))
        assert 0 <= on_disk - sizes[rank] <= 2048 * counts[rank]
    return sizes


def traced_share(config: TrainConfig, rank: int, ranks: int) -> CheckpointShare:
    row = fullest_row(config.data.seq_length, 8, 1, config.parallel.sample_multiple)
    return run_rank(config, rank, ranks, 1, row).checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_writes_and_reads_what_its_trace_says(
    layout: str, tmp_path: Path, write_config: WriteConfig
) -> None:
    file = write_config(tmp_path / "run")
    settings = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**settings, "parallel": LAYOUTS[layout]}))
    assert (
        run_local_ranks(
            [sys.executable, "-m", "tests.training.trace.share_ranks", str(tmp_path), str(file)],
            RANKS,
        )
        == 0
    )
    config = config_of(CommandParser(None, TrainConfig).read(["--config", str(file)]), TrainConfig)
    shares = [traced_share(config, rank, RANKS) for rank in range(RANKS)]
    assert [share.written for share in shares] == written_bytes(tmp_path / "step", RANKS)
    read = [int((tmp_path / f"read-{rank}.txt").read_text()) for rank in range(RANKS)]
    assert [share.read for share in shares] == read


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(2, 1, 2, True),
        pytest.param(ParallelConfig(2, sequence=True), marks=pytest.mark.slow),
        pytest.param(ParallelConfig(), marks=pytest.mark.slow),
    ],
)
def test_the_formula_is_what_the_ranks_share_on_average(parallel: ParallelConfig) -> None:
    """Whole weights go to single ranks, so that at this size shares are uneven."""
    config = run(parallel, dtype="bfloat16")
    shares = [traced_share(config, rank, RANKS) for rank in range(RANKS)]
    expected = checkpoint_share(config, RANKS)
    assert sum(each.written for each in shares) / RANKS == pytest.approx(expected.written, rel=0.02)
    assert sum(each.read for each in shares) / RANKS == pytest.approx(expected.read, rel=0.02)
    assert all(each.host >= each.written for each in shares)
