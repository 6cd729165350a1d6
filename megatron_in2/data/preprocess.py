"""One preprocessing run: sample files -> encoded samples -> packed rows, two splits."""

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.data.encode import SampleEncoder
from megatron_in2.data.manifest import Manifest, part_path
from megatron_in2.data.pack import WindowPacker, padded_length
from megatron_in2.data.samples import read_samples
from megatron_in2.data.writer import PackedWriter, RowShape
from megatron_in2.errors import InputError
from megatron_in2.progress import progress_bar
from megatron_in2.records import EncodedSample, Sample, id_hash
from megatron_in2.templates import FILM
from megatron_in2.tokenizer import Tokenizer, load_tokenizer

OVERLONG = ("error", "drop")
DESIGN = "answer"  # loss on answers and their end-of-sequence
CHUNK = 64  # samples handed to a worker at a time


@dataclass(frozen=True)
class PreprocessConfig:
    """One preprocessing run.

    Args:
        input: sample files (JSON lines, .gz, .zst): text, chat, parts or recipe samples.
        output_prefix: prefix P of the dataset's files; validation goes to P + _valid.
        tokenizer_model: a SentencePiece file, a Hugging Face directory, or mistral-v1.
        seq_length: row length in tokens.
        pad_multiple: every sample is padded to a multiple of so many tokens, which serves
            every TP x CP whose product, times 2 under CP, divides it.
        window: samples that packing chooses from at a time.
        validation_fraction: share of samples, by their id's hash, kept for validation.
        overlong: what to do with a sample longer than a row: error | drop.
        workers: processes that encode; the output does not depend on their number.
        overwrite: replace a dataset that exists.
    """

    input: list[Path]
    output_prefix: Path
    tokenizer_model: str
    seq_length: int
    pad_multiple: int = 16
    window: int = 4096
    validation_fraction: float = 0.0
    overlong: str = "error"
    workers: int = 1
    overwrite: bool = False

    def validate(self) -> None:
        """Check the settings.

        Raises:
            InputError: naming the option, its value and the remedy.
        """
        if self.pad_multiple < 1 or self.window < 1 or self.workers < 1:
            raise InputError("--pad-multiple, --window and --workers must be 1 or more")
        if self.seq_length < self.pad_multiple or self.seq_length % self.pad_multiple:
            raise InputError(
                f"--seq-length {self.seq_length} must be a multiple of --pad-multiple "
                f"{self.pad_multiple}"
            )
        if not 0.0 <= self.validation_fraction < 1.0:
            raise InputError(
                f"--validation-fraction {self.validation_fraction}: must be from 0 to below 1"
            )
        if self.overlong not in OVERLONG:
            raise InputError(f"--overlong {self.overlong}: use {' or '.join(OVERLONG)}")
        for prefix in (self.output_prefix, validation_prefix(self.output_prefix)):
            if part_path(prefix, ".json").exists() and not self.overwrite:
                raise InputError(f"a dataset stands at {prefix}: pass --overwrite to replace it")


def validation_prefix(prefix: Path) -> Path:
    """Return the prefix of the validation split that belongs to a training prefix."""
    return part_path(prefix, "_valid")


def preprocess(config: PreprocessConfig) -> dict[str, Manifest]:
    """Pack samples into indexed datasets.

    Returns:
        The manifest of each split written: ``train`` and, where asked for, ``valid``.

    Raises:
        InputError: an unusable setting or sample; the message names file and line.
    """
    config.validate()
    tokenizer = load_tokenizer(config.tokenizer_model)
    shape = RowShape(config.seq_length, config.pad_multiple)
    with ExitStack() as stack:
        train = _Split(stack.enter_context(_writer(config.output_prefix, shape, tokenizer)), config)
        splits = {"train": train}
        if config.validation_fraction:
            prefix = validation_prefix(config.output_prefix)
            writer = stack.enter_context(_writer(prefix, shape, tokenizer))
            splits["valid"] = _Split(writer, config)
        progress = progress_bar(desc="preprocess", unit=" tokens", unit_scale=True)
        for where, sample in _encoded(config):
            splits["valid" if _is_validation(sample, config) else "train"].add(where, sample)
            progress.update(len(sample.tokens))
        progress.close()
        for name, split in splits.items():
            split.flush()
            if split.writer.is_empty:
                raise InputError(
                    f"no sample for the {name} split: give more samples or another "
                    f"--validation-fraction than {config.validation_fraction}"
                )
        return {name: split.writer.seal(DESIGN, split.dropped) for name, split in splits.items()}


class _Split:
    """One split on its way to rows: its packer, its writer, what it dropped."""

    def __init__(self, writer: PackedWriter, config: PreprocessConfig) -> None:
        self.writer = writer
        self.dropped: Counter[str] = Counter()
        self._config = config
        self._packer = WindowPacker(config.seq_length, config.pad_multiple, config.window)

    def add(self, where: str, sample: EncodedSample) -> None:
        """Pack a sample, or drop it for a counted reason."""
        length = padded_length(len(sample.tokens), self._config.pad_multiple)
        if length > self._config.seq_length:
            if self._config.overlong == "error":
                raise InputError(
                    f"{where}: sample {sample.id!r} has {len(sample.tokens)} tokens ({length} "
                    f"padded), more than --seq-length {self._config.seq_length}: use longer rows "
                    "or --overlong drop"
                )
            self.dropped["overlong"] += 1
            return
        for row in self._packer.add(sample):
            self.writer.add_row(row)

    def flush(self) -> None:
        """Write the rows of what the packer still holds."""
        for row in self._packer.flush():
            self.writer.add_row(row)


def _writer(prefix: Path, shape: RowShape, tokenizer: Tokenizer) -> PackedWriter:
    return PackedWriter(prefix, shape, tokenizer, FILM)


def _is_validation(sample: EncodedSample, config: PreprocessConfig) -> bool:
    return id_hash(sample.id) / 2**64 < config.validation_fraction


def _encoded(config: PreprocessConfig) -> Iterator[tuple[str, EncodedSample]]:
    """Encode all input samples, in input order whatever the number of workers."""
    samples = itertools.chain.from_iterable(read_samples(path, FILM) for path in config.input)
    chunks = iter(lambda: list(itertools.islice(samples, CHUNK)), [])
    if config.workers == 1:
        _start_worker(config.tokenizer_model)
        encoded = map(_encode_chunk, chunks)
        yield from itertools.chain.from_iterable(encoded)
        return
    # Spawned: a forked child of a process that has run threads can hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(config.workers, _start_worker, (config.tokenizer_model,)) as pool:
        yield from itertools.chain.from_iterable(pool.imap(_encode_chunk, chunks))


_worker_encoder: SampleEncoder  # one a process, set when it starts


def _start_worker(tokenizer_model: str) -> None:
    global _worker_encoder
    _worker_encoder = SampleEncoder(load_tokenizer(tokenizer_model))


def _encode_chunk(chunk: list[tuple[str, Sample]]) -> list[tuple[str, EncodedSample]]:
    encoded = []
    for where, sample in chunk:
        try:
            encoded.append((where, _worker_encoder.encode(sample)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return encoded
