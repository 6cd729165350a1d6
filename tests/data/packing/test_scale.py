"""Kills and resumes, shards and merges: always the same bytes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_in2.data.inspection.check import check_dataset
from megatron_in2.data.inspection.statistics import summary
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.manifest import PARTS, part_path, read_manifest
from megatron_in2.data.packing import merge
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.merge import merge_datasets
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.data.packing.rows import writer
from megatron_in2.data.packing.rows.pool import PooledSample
from megatron_in2.errors import InputError
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import ROOT, RunTool, assert_refused
from tests.data.conftest import Pack, WriteSamples


def _bytes(prefix: Path) -> list[bytes]:
    return [part_path(prefix, part).read_bytes() for part in PARTS]


def _ids(data: PackedDataset) -> list[int]:
    records = np.concatenate([data[index].records for index in range(len(data))])
    return sorted(records["id_hash"][records["length"] > 0].tolist())


def _many(records: list[dict[str, Any]], copies: int) -> list[dict[str, Any]]:
    return [
        {**record, "id": f"{record['id']}/{copy}"} for copy in range(copies) for record in records
    ]


def test_a_killed_run_continues_to_the_same_bytes(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], pack: Pack, tmp_path: Path
) -> None:
    path = write_samples([*_many(mixed_records, 20), {"id": "bad"}])
    options = {"block": 256, "validation_fraction": 0.1, "on_error": "skip"}
    whole = pack(path, name="whole", **options)
    command = [
        *(sys.executable, str(ROOT / "tools" / "preprocess_in2.py"), "--input", str(path)),
        *("--output-prefix", str(tmp_path / "killed"), "--tokenizer-model", "mistral-v1"),
        *("--seq-length", "2048", "--block", "256", "--validation-fraction", "0.1"),
        *("--on-error", "skip"),
    ]
    journal = tmp_path / ".killed.partial" / "journal.json"
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while run.poll() is None and not journal.exists():
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert journal.exists(), "the run ended before it could be killed"
    assert not (tmp_path / "killed.json").exists()
    (tmp_path / ".killed.partial" / "killed.bin").open("ab").write(b"cut off in a block")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert _bytes(tmp_path / "killed") == _bytes(whole.prefix)
    assert _bytes(tmp_path / "killed_valid") == _bytes(tmp_path / "whole_valid")
    resumed, straight = read_manifest(tmp_path / "killed"), whole.manifest
    assert resumed == straight
    assert len((tmp_path / "killed_rejects.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / ".killed.partial").exists()


def test_changed_input_or_settings_start_anew(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], pack: Pack, tmp_path: Path
) -> None:
    path = write_samples([*_many(mixed_records, 2), {"id": "bad"}])
    with pytest.raises(InputError, match="not a sample"):
        pack(path, block=128)
    assert (tmp_path / ".packed.partial" / "journal.json").exists()
    repaired = write_samples(_many(mixed_records, 2)[5:])
    data = pack(repaired, block=128)
    assert data.manifest.samples == 2 * len(mixed_records) - 5
    assert not (tmp_path / ".packed.partial").exists()


def test_a_publication_that_was_cut_off_is_finished(
    write_samples: WriteSamples,
    mixed_records: list[dict[str, Any]],
    pack: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_samples(mixed_records)
    whole = pack(path, name="whole")
    move = Path.replace
    moved = []

    def fails_at_the_third(self: Path, target: Path) -> Path:
        if self.parent.name == ".packed.partial" and self.suffix != ".json":
            moved.append(self)
            if len(moved) == 3:
                raise OSError(5, "the machine went down")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fails_at_the_third)
    with pytest.raises(InputError, match="the machine went down"):
        pack(path)
    assert not (tmp_path / "packed.json").exists()
    data = pack(path)
    assert _bytes(data.prefix) == _bytes(whole.prefix)


def test_two_runs_cannot_write_the_same_dataset(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], pack: Pack, tmp_path: Path
) -> None:
    with (
        PartialOutput(tmp_path / "packed", "another").opened(),
        pytest.raises(InputError, match="another run is writing"),
    ):
        pack(write_samples(mixed_records))
    assert len(pack(write_samples(mixed_records))) > 0


def test_shards_merge_to_the_whole(
    write_samples: WriteSamples,
    mixed_records: list[dict[str, Any]],
    recipes: Path,
    pack: Pack,
    tokenizer: Tokenizer,
    tmp_path: Path,
    run_tool: RunTool,
) -> None:
    path = write_samples(mixed_records)
    whole = pack(path, recipes, name="whole")
    shards = [pack(path, recipes, name=f"s{i}", shard=i, num_shards=3) for i in range(3)]
    prefixes = [shard.prefix for shard in shards]
    result = run_tool(
        *("preprocess_in2", "merge", "--output-prefix", tmp_path / "merged", "--inputs"),
        *(f"{prefix}.json" for prefix in prefixes[::-1]),
    )
    assert result.returncode == 0, result.stderr
    merged = PackedDataset(tmp_path / "merged")
    assert _ids(merged) == _ids(whole)
    assert check_dataset(merged.prefix, tokenizer).problems == []
    assert _bytes(merged.prefix) == _bytes(whole.prefix)
    for name in ("samples", "tokens", "learnt_tokens", "samples_by_kind", "notes", "inputs"):
        assert getattr(merged.manifest, name) == getattr(whole.manifest, name)


def test_empty_shards_and_empty_splits_merge(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], pack: Pack, tmp_path: Path
) -> None:
    path = write_samples(mixed_records)
    options = {"validation_fraction": 0.004}  # a sample or two of 240
    whole = pack(path, name="whole", **options)
    for index in range(5):  # the input has two chunks
        pack(path, name=f"s{index}", shard=index, num_shards=5, **options)
    prefixes = [tmp_path / f"s{index}" for index in range(5)]
    rows = [read_manifest(prefix).rows for prefix in prefixes]
    assert min(rows) == 0 < max(rows)
    assert min(read_manifest(part_path(prefix, "_valid")).rows for prefix in prefixes) == 0
    for split in ("", "_valid"):
        merged = part_path(tmp_path / "merged", split)
        merge_datasets(merged, [part_path(prefix, split) for prefix in prefixes])
        assert _bytes(merged) == _bytes(part_path(whole.prefix, split))
    empty = [tmp_path / f"s{index}" for index in range(5) if not rows[index]]
    assert len(PackedDataset(empty[0])) == 0
    with pytest.raises(InputError, match="missing"):
        merge_datasets(tmp_path / "none", empty)


def test_datasets_without_any_sample(
    write_samples: WriteSamples, pack: Pack, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write_samples([{"id": "a", "parts": [{"text": "a", "learn": True}]}])
    shards = [
        pack(path, name=f"s{i}", shard=i, num_shards=2, validation_fraction=1e-9) for i in range(2)
    ]
    prefixes = [shards[1].prefix, *(part_path(data.prefix, "_valid") for data in shards)]
    assert check_dataset(prefixes[0], tokenizer).problems == []
    assert "0 of 2,048 tokens" in summary(read_manifest(prefixes[0]))
    with pytest.raises(InputError, match="hold no samples"):
        merge_datasets(tmp_path / "none", prefixes[1:])
    with pytest.raises(InputError, match="no row 0"):
        PackedDataset(prefixes[0]).require_rows([0])


def test_a_killed_merge_continues(
    write_samples: WriteSamples,
    mixed_records: list[dict[str, Any]],
    pack: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_samples(mixed_records)
    whole = pack(path, name="whole")
    shards = [pack(path, name=f"s{i}", shard=i, num_shards=2).prefix for i in range(2)]
    monkeypatch.setattr(writer, "ROWS_A_BLOCK", 2)
    read, reads = merge.PackedSamples.read, []

    def fails_late(self: merge.PackedSamples, index: int) -> PooledSample:
        reads.append(index)
        if len(reads) == 200:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(merge.PackedSamples, "read", fails_late)
    with pytest.raises(KeyboardInterrupt):
        merge_datasets(tmp_path / "merged", shards)
    assert (tmp_path / ".merged.partial" / "journal.json").exists()
    merge_datasets(tmp_path / "merged", shards)
    assert len(reads) < 200 + 240
    assert _bytes(tmp_path / "merged") == _bytes(whole.prefix)


def test_what_cannot_be_merged(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], pack: Pack, tmp_path: Path
) -> None:
    path = write_samples(_many(mixed_records, 3))
    one, two = (pack(path, name=f"s{i}", shard=i, num_shards=2) for i in range(2))
    other = pack(path, name="other", seq_length=4096)
    output = tmp_path / "merged"
    with pytest.raises(InputError, match="missing: 2/2"):
        merge_datasets(output, [one.prefix])
    with pytest.raises(InputError, match="seq_length 4096"):
        merge_datasets(output, [one.prefix, two.prefix, other.prefix])
    whole, again = pack(path, name="whole"), pack(path, name="again")
    with pytest.raises(InputError, match="are in more than one"):
        merge_datasets(output, [whole.prefix, again.prefix])
    with pytest.raises(InputError, match="no packed dataset"):
        merge_datasets(output, [tmp_path / "absent"])
    single = pack(path, name="single", no_packing=True)
    with pytest.raises(InputError, match="packing False"):
        merge_datasets(output, [whole.prefix, single.prefix])
    kinds = [{**record, "kind": f"kind {n}"} for n, record in enumerate(_many(mixed_records, 2))]
    many = pack(write_samples(kinds[:240]), name="many")
    more = pack(write_samples(kinds[240:]), name="more")
    with pytest.raises(InputError, match="kinds together, more than 255"):
        merge_datasets(output, [many.prefix, more.prefix])
    assert not list(tmp_path.glob("*merged*"))


@pytest.mark.parametrize(("shard", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_shards_that_are_none(
    pack: Pack, write_samples: WriteSamples, shard: int, count: int
) -> None:
    with pytest.raises(InputError, match="--shard"):
        pack(write_samples([{"id": "a"}]), shard=shard, num_shards=count)


def test_a_disk_that_is_full_is_named_and_the_run_continues(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], pack: Pack, tmp_path: Path
) -> None:
    path = write_samples(_many(mixed_records, 10))
    command = [
        *(sys.executable, str(ROOT / "tools" / "preprocess_in2.py"), "--input", str(path)),
        *("--output-prefix", str(tmp_path / "full"), "--tokenizer-model", "mistral-v1"),
        *("--seq-length", "2048", "--block", "256"),
    ]

    def limit_file_size() -> None:  # a write beyond it fails as a write to a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    result = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limit_file_size
    )
    assert_refused(result, str(tmp_path / "full"), "free some space")
    assert not (tmp_path / "full.json").exists()
    assert (tmp_path / ".full.partial" / "journal.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert _bytes(tmp_path / "full") == _bytes(pack(path, name="whole", block=256).prefix)


def test_a_worker_that_dies_ends_the_run_in_one_line(
    write_samples: WriteSamples, mixed_records: list[dict[str, Any]], tmp_path: Path
) -> None:
    import psutil

    path = write_samples(_many(mixed_records, 200))
    command = [
        *(sys.executable, str(ROOT / "tools" / "preprocess_in2.py"), "--input", str(path)),
        *("--output-prefix", str(tmp_path / "dies"), "--tokenizer-model", "mistral-v1"),
        *("--seq-length", "2048", "--workers", "2"),
    ]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    process = psutil.Process(run.pid)
    workers: list[psutil.Process] = []
    while run.poll() is None and not workers:
        workers = [
            child for child in process.children() if "spawn_main" in " ".join(child.cmdline())
        ]
        time.sleep(0.02)
    assert workers
    os.kill(workers[0].pid, signal.SIGKILL)
    _, complaint = run.communicate(timeout=60)
    assert run.returncode == 2, complaint
    assert "a worker process died" in complaint
    assert "Traceback" not in complaint
    assert not (tmp_path / "dies.json").exists()


def test_the_journal_survives_only_what_can_be_continued(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        preprocess(PreprocessConfig([path], tmp_path / "p", "mistral-v1", 64))
    assert [item.name for item in tmp_path.iterdir()] == ["empty.jsonl"]
