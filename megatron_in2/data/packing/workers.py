"""Encodes chunks, in this process or in several; the results come in input order either way."""

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from megatron_in2.data.packing.encoding.designs import Design
from megatron_in2.data.packing.encoding.encode import CompactSample, SampleEncoder
from megatron_in2.data.packing.encoding.inputs import Chunk
from megatron_in2.data.packing.encoding.samples import SampleError, SampleReader
from megatron_in2.errors import InputError
from megatron_in2.processes import die_with_parent, ignore_stop_signals
from megatron_in2.templates.base import Template
from megatron_in2.tokenizers.load import load_tokenizer

AHEAD = 2  # chunks a worker may be ahead of the packer; this bounds the memory


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """What a worker needs to know; small enough to send."""

    tokenizer_model: str
    template: Template
    design: Design
    generic_system: str
    seq_length: int
    truncates: bool
    verify_joins: float


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be used: why (counted by ``reason``), and the record itself."""

    where: str
    reason: str
    message: str
    record: str


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """What became of a chunk's records, in order, with (``FILE:LINE``, id) of each sample.

    ``stores`` are all segment stores that this process has opened.
    """

    samples: list[tuple[str, str, CompactSample] | Reject]
    notes: Counter[str]
    consumed: int
    stores: list[str]


class ChunkEncoder:
    """Reads and encodes chunks."""

    def __init__(self, options: EncodeOptions) -> None:
        self._encoder = SampleEncoder(
            load_tokenizer(options.tokenizer_model),
            options.seq_length if options.truncates else 0,
            options.verify_joins,
            0 if options.truncates else options.seq_length,
        )
        self._reader = SampleReader(options.template, options.design, options.generic_system)

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Encode a chunk; records that cannot be used become rejects.

        Raises:
            InputError: what concerns more than one record, as a missing segment store does.
        """
        self._reader.notes.clear()
        self._encoder.notes.clear()
        results: list[tuple[str, str, CompactSample] | Reject] = []
        folder = chunk.path.parent
        for index in range(len(chunk)):
            where = chunk.where(index)
            try:
                record = chunk.parsed(index)
                if record is None:
                    continue
                sample = self._reader.read(record, where, folder)
                results.append((where, sample.id, self._encoder.encode_compact(sample)))
            except SampleError as error:
                message = str(error).removeprefix(f"{where}: ")
                results.append(Reject(where, error.reason, message, chunk.raw(index)))
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        notes = self._reader.notes + self._encoder.notes
        return EncodedChunk(results, notes, chunk.consumed, self._encoder.stores.paths())


def encoded_chunks(
    chunks: Iterator[Chunk], options: EncodeOptions, workers: int
) -> Generator[EncodedChunk, None, None]:
    """Yield every chunk encoded, in order.

    Raises:
        InputError: a chunk cannot be read at all, or a worker process died.
    """
    if workers == 1:
        yield from map(ChunkEncoder(options).encode, chunks)
        return
    # Spawned: a forked child of a process that has run threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (options,))
    waiting: deque[Future[EncodedChunk]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_encode_chunk, chunk))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died, perhaps for want of memory: use fewer --workers; "
            "the same command continues from the last complete block"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: ChunkEncoder  # one a process, set when it starts


def _start_worker(options: EncodeOptions) -> None:
    """Set this process up: the parent decides when it ends, also by dying itself."""
    global _worker
    ignore_stop_signals()  # sent to the whole group
    die_with_parent(os.getppid())
    _worker = ChunkEncoder(options)


def _encode_chunk(chunk: Chunk) -> EncodedChunk:
    return _worker.encode(chunk)
