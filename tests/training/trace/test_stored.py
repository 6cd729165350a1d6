"""Traces on disk: the same as new ones, and never those of something else."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.trace import stored
from megatron_in2.training.trace.events import Trace
from megatron_in2.training.trace.stored import TraceStore, default_folder, trace_key
from megatron_in2.training.trace.traced_row import TracedRow
from tests.training.trace.cases import LENGTH, RANKS, run

CONFIG = run(ParallelConfig(2, sequence=True))
ROW = TracedRow(LENGTH, 8, 1)


@pytest.fixture
def described() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, described: list[str]) -> TraceStore:
    return TraceStore(tmp_path / "traces", described.append)


def _trace(store: TraceStore, rank: int = 0) -> Trace:
    return store.trace(CONFIG, rank, RANKS, 2, ROW)


def test_a_stored_trace_is_the_new_one(
    store: TraceStore, described: list[str], tmp_path: Path
) -> None:
    new = _trace(store)
    assert len(new.events) > 100
    assert len(new.allocations) > 100
    assert _trace(store) == new
    assert described == ["tracing rank 0 of 4: TP2 PP1 CP1, recompute none"]
    (path,) = (tmp_path / "traces").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert _trace(store) == new
    assert len(described) == 2
    path.write_bytes(b"{}")
    assert _trace(store) == new
    assert len(described) == 3


def test_whatever_changes_a_trace_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = replace(CONFIG.optimizer, cpu_offload=True)
    arguments = [
        (CONFIG, 0, RANKS, 2, ROW),
        (CONFIG, 1, RANKS, 2, ROW),
        (CONFIG, 0, 8, 2, ROW),
        (CONFIG, 0, RANKS, 3, ROW),
        (CONFIG, 0, RANKS, 2, replace(ROW, trained=9)),
        (CONFIG, 0, RANKS, 2, replace(ROW, samples=2)),
        (CONFIG, 0, RANKS, 2, replace(ROW, length=256)),
        (run(ParallelConfig(2)), 0, RANKS, 2, ROW),
        (run(ParallelConfig(2, sequence=True), "qwen2"), 0, RANKS, 2, ROW),
        (run(ParallelConfig(2, sequence=True), recompute="full"), 0, RANKS, 2, ROW),
        (replace(CONFIG, optimizer=optimizer), 0, RANKS, 2, ROW),
    ]
    keys = {trace_key(*each) for each in arguments}
    assert len(keys) == len(arguments)
    for name in ("_code", "_version"):
        with monkeypatch.context() as patched:
            patched.setattr(stored, name, lambda *unused: "another")
            assert trace_key(*arguments[0]) not in keys
    elsewhere = replace(CONFIG, checkpoint=replace(CONFIG.checkpoint, dir="elsewhere"))
    assert trace_key(elsewhere, 0, RANKS, 2, ROW) == trace_key(*arguments[0])


def test_the_code_that_runs_is_part_of_the_key() -> None:
    """The program and everything of this package that it imports lies in the hashed folders."""
    for path in ("training/trace/recorder.py", "model/swiglu.py", "parallel/simulated.py"):
        assert any(path.startswith(f"{folder}/") for folder in stored.CODE)
        assert (stored.PACKAGE / path).is_file()


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert _trace(TraceStore(tmp_path / "file" / "traces")).events


def test_the_oldest_traces_are_removed(
    store: TraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MAX_FILES", 2)
    folder = tmp_path / "traces"
    folder.mkdir()
    for age in (1, 2, 3):
        old = folder / f"{age}.json.gz"
        old.touch()
        stored.os.utime(old, (1e9 - age, 1e9 - age))
    _trace(store)
    assert len(list(folder.iterdir())) == 2
    assert (folder / "1.json.gz").exists()


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/megatron_in2/traces")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.cache/megatron_in2/traces")
