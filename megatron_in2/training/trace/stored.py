"""Traces on disk, so that a layout is traced once.

A trace is one compressed JSON file, named by the hash of everything that it depends on: the rank's
place, the row, the configuration's parts that the program reads, this package's code, and the
versions of the libraries. Files are written whole or not at all; one that cannot be read is traced
again, and a folder that cannot be written only costs time.
"""

import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_in2.files import ARCHIVE_ERRORS, atomic_file
from megatron_in2.parallel.imports import without_unused_imports
from megatron_in2.training.arithmetic.checkpoint_share import CheckpointShare
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.trace.events import (
    Allocation,
    Collective,
    Event,
    MicroBatchEnd,
    Operation,
    Trace,
    Wait,
)
from megatron_in2.training.trace.traced_row import TracedRow

PACKAGE = Path(__file__).parents[2]
# What a trace runs.
CODE = ("architectures", "checkpoint", "data/packed", "model", "parallel", "training")
LIBRARIES = ("torch", "megatron-core", "transformer-engine", "apex")
MAX_FILES = 500  # about 40 MB
_EVENTS: tuple[type[Event], ...] = (Operation, Collective, Wait, MicroBatchEnd)


def default_folder() -> Path:
    """Return the user's folder of traces: ``$XDG_CACHE_HOME/megatron_in2/traces``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "megatron_in2" / "traces"


class TraceStore:
    """Returns traces from a folder, or runs them and keeps them there.

    Args:
        folder: is made when the first trace is written.
        on_run: called with a description of each trace that has to be run, before it is.
    """

    def __init__(self, folder: Path, on_run: Callable[[str], None] = lambda text: None) -> None:
        self._folder = folder
        self._on_run = on_run

    def trace(
        self, config: TrainConfig, rank: int, world_size: int, micro_batches: int, row: TracedRow
    ) -> Trace:
        """Return the trace of a rank; see :func:`program.run_rank`.

        Raises:
            InputError: the configuration cannot be traced.
        """
        key = trace_key(config, rank, world_size, micro_batches, row)
        path = self._folder / f"{key}.json.gz"
        with contextlib.suppress(*ARCHIVE_ERRORS, ValueError, TypeError, KeyError):
            trace = _decoded(json.loads(gzip.decompress(path.read_bytes())))
            path.touch()  # the most recently used ones are kept
            return trace
        parallel = config.parallel
        self._on_run(
            f"tracing rank {rank} of {world_size}: TP{parallel.tensor} PP{parallel.pipeline} "
            f"CP{parallel.context}, recompute {config.runtime.recompute}"
        )
        trace = _run(config, rank, world_size, micro_batches, row)
        with contextlib.suppress(OSError):
            with atomic_file(path, "wb") as stream:
                stream.write(gzip.compress(json.dumps(_encoded(trace)).encode(), mtime=0))
            self._remove_oldest()
        return trace

    def _remove_oldest(self) -> None:
        found = sorted(self._folder.glob("*.json.gz"), key=lambda path: path.stat().st_mtime)
        for path in found[:-MAX_FILES]:
            path.unlink(missing_ok=True)


def _run(
    config: TrainConfig, rank: int, world_size: int, micro_batches: int, row: TracedRow
) -> Trace:
    with without_unused_imports():  # here, so that a stored trace needs no seconds of imports
        from megatron_in2.training.step.fullest_row import fullest_row
        from megatron_in2.training.trace.program import run_rank

    multiple = config.parallel.sample_multiple
    rows = fullest_row(row.length, row.trained, row.samples, multiple)
    return run_rank(config, rank, world_size, micro_batches, rows)


def trace_key(
    config: TrainConfig, rank: int, world_size: int, micro_batches: int, row: TracedRow
) -> str:
    """Return the hash of everything that a rank's trace depends on."""
    depends_on = {
        "model": asdict(config.model),
        "parallel": asdict(config.parallel),
        "optimizer": asdict(config.optimizer),
        "runtime": asdict(config.runtime),
        "place": [rank, world_size],
        "micro_batches": micro_batches,
        "row": asdict(row),
        "code": _code(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


@lru_cache
def _code() -> str:
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@lru_cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _encoded(trace: Trace) -> dict[str, Any]:
    """Return a trace as JSON: a list of fields for each record, its events' kinds beside them."""
    return {
        "allocations": _rows(trace.allocations, Allocation),
        "kinds": [_EVENTS.index(type(each)) for each in trace.events],
        "events": [_rows([each], type(each))[0] for each in trace.events],
        "ends_of_forward": list(trace.ends_of_forward),
        "ends_of_micro_batches": list(trace.ends_of_micro_batches),
        "checkpoint": asdict(trace.checkpoint),
    }


def _rows(records: Iterable[Any], kind: type) -> list[list[Any]]:
    names = [each.name for each in fields(kind)]
    return [[getattr(record, name) for name in names] for record in records]


def _decoded(stored: dict[str, Any]) -> Trace:
    return Trace(
        allocations=[Allocation(*values) for values in stored["allocations"]],
        events=[
            _event(_EVENTS[kind], values)
            for kind, values in zip(stored["kinds"], stored["events"], strict=True)
        ],
        ends_of_forward=stored["ends_of_forward"],
        ends_of_micro_batches=stored["ends_of_micro_batches"],
        checkpoint=CheckpointShare(**stored["checkpoint"]),
    )


def _event(kind: type[Event], values: list[Any]) -> Event:
    if kind is Collective:
        name, group, ranks, *others = values
        return Collective(name, group, tuple(ranks), *others)
    return kind(*values)
