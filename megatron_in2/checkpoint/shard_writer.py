"""Writes the shards of one rank in a helper process, which is gone as soon as its rank is.

Megatron-Core plans what each rank writes and how the results are merged; the writing itself is
done here instead of in Megatron-Core's two layers of forked processes under a spawned manager.
One forked process with a thread a file writes as fast, hashes what passes through, and dies with
its rank: a manager outlives a killed rank and keeps its output open.
"""

import gc
import os
import pickle
import queue
import struct
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from torch.distributed.checkpoint.filesystem import (
    SerializationFormat,
    _StorageWriterTransforms,
    _write_item,
)
from torch.distributed.checkpoint.storage import WriteResult

from megatron_in2.processes import die_with_parent, ignore_stop_signals

# One file: its path, the name that the metadata know it by, and its (plan item, value) pairs,
# first those of bytes, then those of tensors.
WriteBucket = tuple[str, str, tuple[list[Any], list[Any]]]
_LENGTH = struct.Struct("<q")


class Mailbox:
    """Hands one value from a forked process to its parent, through a file without a name.

    A pipe would block the sender of a long value until the parent, which waits for its end, reads;
    a manager's queue would need a process of its own.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the mailbox

    def put(self, value: object) -> None:
        """Store a value; a process that is killed midway leaves none."""
        content = pickle.dumps(value)
        os.pwrite(self._file.fileno(), content, _LENGTH.size)
        os.pwrite(self._file.fileno(), _LENGTH.pack(len(content)), 0)

    def get_nowait(self) -> Any:
        """Take the value out.

        Raises:
            queue.Empty: there is none.
        """
        header = os.pread(self._file.fileno(), _LENGTH.size, 0)
        if not header:
            raise queue.Empty
        (length,) = _LENGTH.unpack(header)
        content = os.pread(self._file.fileno(), length, _LENGTH.size)
        os.ftruncate(self._file.fileno(), 0)
        return pickle.loads(content)


def use_mailbox_for_results() -> None:
    """Have Megatron-Core's writers collect their results without a manager process."""
    filesystem_async._results_queue = Mailbox()


def written_here(request: AsyncRequest) -> AsyncRequest:
    """Let :func:`write_shards` do the writing of a save that Megatron-Core has planned."""
    if request.async_fn is None:  # nothing to write on this rank
        return request
    return request._replace(async_fn=partial(write_shards, os.getpid()))


def write_shards(parent: int, rank: int, buckets: Sequence[WriteBucket], results: Mailbox) -> None:
    """Write all files of a rank and report the results; runs in a process forked from the rank."""
    die_with_parent(parent)
    ignore_stop_signals()  # what ends a run in order waits for its checkpoint
    gc.disable()  # the parent's tensors on a GPU must not be collected in this process
    try:
        with ThreadPoolExecutor(len(buckets)) as threads:
            results.put(dict(enumerate(threads.map(_write_bucket, buckets))))
    except Exception as error:
        results.put(error)


def _write_bucket(bucket: WriteBucket) -> list[WriteResult]:
    path, storage_key, (byte_items, tensor_items) = bucket
    with open(Path(path), "wb") as stream:
        written = [
            _write_item(
                _StorageWriterTransforms(),
                stream,
                value,
                item,
                storage_key,
                SerializationFormat.TORCH_SAVE,
            )
            for item, value in (*byte_items, *tensor_items)
        ]
        stream.flush()
        os.fsync(stream.fileno())
    return written
