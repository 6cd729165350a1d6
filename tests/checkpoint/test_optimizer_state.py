"""Each rank saves its own part of the optimizer's state; any layout loads what any other saved."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory

from megatron_in2.checkpoint.optimizer_state import _parts, distributed_optimizer
from megatron_in2.checkpoint.store import load_checkpoint
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.arithmetic.checkpoint_share import checkpoint_share
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig
from tests.checkpoint.save_ranks import STEP, whole_state
from tests.training.conftest import WriteConfig
from tests.training.trace.test_checkpoint import traced_share, written_bytes

LAYERS, RANKS = 3, 2


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_parts_of_all_ranks_are_the_whole_tensor_once(data: st.DataObject) -> None:
    """TP2, a stack of layers, SwiGLU's two halves, and data-parallel cuts anywhere."""
    rows, columns = 2 * data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    is_swiglu = data.draw(st.booleans())
    count = rows * columns
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=3)))
    whole = torch.zeros(LAYERS, RANKS * rows, columns)
    copies = torch.zeros_like(whole)
    expected = torch.arange(1.0, whole.numel() + 1).view(whole.shape)
    for layer in range(LAYERS):
        for rank in range(RANKS):
            weight = ShardedTensor.from_rank_offsets(
                "w",
                torch.nn.Parameter(torch.zeros(rows, columns)),
                (0, layer, LAYERS),
                (1, rank, RANKS),
                replica_id=(0, 0, 5),
                prepend_axis_num=1,
            )
            local = expected[layer, rank * rows : (rank + 1) * rows]
            if is_swiglu:
                weight = apply_swiglu_sharded_factory(weight, ((0, layer, LAYERS),))
                half = rows // 2
                gate, up = expected[layer].chunk(2)
                local = torch.cat([part[rank * half : (rank + 1) * half] for part in (gate, up)])
            for start, stop in zip([0, *cuts], [*cuts, count], strict=True):
                own = local.reshape(-1)[start:stop].clone()
                for part in _parts("exp_avg", own, weight, start, stop):
                    assert part.key == "optimizer.state.exp_avg.w"
                    assert part.replica_id == (0, 0, 0)
                    assert part.global_shape == tuple(whole.shape)
                    assert part.data.is_contiguous()
                    assert part.data.untyped_storage().data_ptr() == own.data_ptr()
                    place = part.global_slice()
                    whole[place] = part.data
                    copies[place] += 1
    assert torch.equal(whole, expected)
    assert torch.equal(copies, torch.ones_like(copies))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, write_config: WriteConfig) -> Path:
    """A step that two ranks have saved, and loaded, in both forms."""
    folder = tmp_path_factory.mktemp("saved")
    config = write_config(folder / "run")
    code = run_local_ranks(
        [sys.executable, "-m", "tests.checkpoint.save_ranks", str(folder), str(config)], RANKS
    )
    assert code == 0
    return folder


@pytest.mark.parametrize("form", ["own", "gathered"])
def test_one_rank_loads_what_two_have_saved(saved: Path, form: str) -> None:
    config = config_of(
        CommandParser(None, TrainConfig).read(["--config", str(saved / "run.yaml")]), TrainConfig
    )
    expected = torch.load(saved / "whole.pt")
    with open_world(config.parallel, SINGLE_RANK, seed=1) as world:
        state = build_training_state(config, check_run(config, world_size=1), world)
        load_checkpoint(saved / form, state.model.module, state.optimizer)
        found = whole_state(state.optimizer)
        inner = distributed_optimizer(state.optimizer).optimizer
        steps = [each["step"] for each in inner.state.values()]
    for kind, tensor in expected.items():
        assert tensor.std() > 0.2  # random numbers from 0 to 1
        assert torch.equal(found[kind], tensor), kind
    assert all(step == STEP for step in steps)
    assert len({step.data_ptr() for step in steps}) == len(steps)


def test_each_rank_writes_its_share(saved: Path) -> None:
    sizes = {
        form: [
            sum(path.stat().st_size for path in (saved / form).glob(f"__{rank}_*"))
            for rank in range(RANKS)
        ]
        for form in ("own", "gathered")
    }
    assert sizes["own"][1] == pytest.approx(sizes["own"][0], rel=0.2)
    assert sizes["gathered"][1] < 0.1 * sizes["gathered"][0]  # the control
    assert sum(sizes["own"]) == pytest.approx(sum(sizes["gathered"]), rel=0.1)
    config = config_of(
        CommandParser(None, TrainConfig).read(["--config", str(saved / "run.yaml")]), TrainConfig
    )
    shares = [traced_share(config, rank, RANKS).written for rank in range(RANKS)]
    assert shares == written_bytes(saved / "own", RANKS)
    assert shares != written_bytes(saved / "gathered", RANKS)
    assert sum(shares) / RANKS == pytest.approx(checkpoint_share(config, RANKS).written, rel=0.02)
