"""Re-reads a whole packed dataset and checks everything that can be checked without its input."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.manifest import PARTS, Manifest, part_path, read_manifest
from megatron_in2.data.packed.row_files import index_bytes, sequence_lengths
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, sha256_of_file
from megatron_in2.progress import progress_bar
from megatron_in2.templates.base import Turn
from megatron_in2.templates.ids import part_ids
from megatron_in2.tokenizers.base import Tokenizer, token_dtype

BLOCK_TOKENS = 1 << 22  # read at a time
SAMPLED_BLOCKS = 8
SAMPLED_TOKENS = 1 << 18  # of each block
MARK_TOKENS = 2  # last ids of a prompt, at most, that tell that an answer follows


@dataclass
class Findings:
    """What a check found: ``problems``, empty for a sound dataset, and what it counted.

    ``marked_spans`` of the ``spans`` that are trained on come directly after a prompt of the
    template (they all do where samples are text, chat or recipes under design ``answer``).
    """

    problems: list[str] = field(default_factory=list)
    rows: int = 0
    samples: int = 0
    tokens: int = 0
    learnt_tokens: int = 0
    spans: int = 0
    marked_spans: int = 0

    def expect(self, condition: bool | np.bool_, problem: str) -> None:
        """Note a problem unless a condition holds."""
        if not condition:
            self.problems.append(problem)


def check_dataset(prefix: Path, tokenizer: Tokenizer) -> Findings:
    """Check hashes, indices, twins, records, borders, ids and masks of a dataset.

    Raises:
        InputError: there is no dataset, or it is not of this tokenizer.
    """
    manifest = read_manifest(prefix)
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise InputError(f"{prefix} was packed with another tokenizer than {tokenizer.path}")
    findings = Findings()
    _check_hashes(prefix, manifest, findings)
    if not findings.problems:  # what follows relies on files that can be read
        _Contents(prefix, manifest, tokenizer, findings).check()
    return findings


def check_some_rows(prefix: Path, tokenizer: Tokenizer) -> Findings:
    """Check indices and records of a dataset, and some of its rows, in seconds at any size.

    Raises:
        InputError: there is no dataset.
    """
    manifest, findings = read_manifest(prefix), Findings()
    _Contents(prefix, manifest, tokenizer, findings).check_sampled()
    return findings


def _check_hashes(prefix: Path, manifest: Manifest, findings: Findings) -> None:
    path = part_path(prefix, ".json")
    written = json.dumps(read_json(path), indent=2, ensure_ascii=False) + "\n"
    findings.expect(path.read_bytes() == written.encode(), f"{path} is not as it was written")
    for part in progress_bar(PARTS, desc="hashes", unit=" files"):
        file = part_path(prefix, part)
        findings.expect(
            sha256_of_file(file) == manifest.files[part]["sha256"],
            f"{file} does not have the content that its manifest states",
        )


class _Contents:
    """The files of one dataset against each other."""

    def __init__(
        self, prefix: Path, manifest: Manifest, tokenizer: Tokenizer, findings: Findings
    ) -> None:
        self._prefix = prefix
        self._manifest = manifest
        self._findings = findings
        self._dtype = np.dtype(token_dtype(manifest.vocab_size))
        self._samples = np.load(part_path(prefix, "_samples.npy"), mmap_mode="r")
        self._rows = np.load(part_path(prefix, "_rows.npy"), mmap_mode="r")
        self._lengths = sequence_lengths(part_path(prefix, ".idx"))
        self._mark = _prompt_end(manifest, tokenizer)

    def check(self) -> None:
        self._check_indices()
        self._check_records()
        if self._findings.problems:
            return
        first_sequences = np.searchsorted(self._samples["row"], np.arange(self._manifest.rows + 1))
        rows = max(BLOCK_TOKENS // self._manifest.seq_length, 1)
        with progress_bar(total=self._manifest.rows, desc="rows", unit=" rows") as progress:
            for start in range(0, self._manifest.rows, rows):
                end = min(start + rows, self._manifest.rows)
                self._check_rows(start, end, first_sequences[start], first_sequences[end])
                progress.update(end - start)
        for name in ("rows", "samples", "tokens", "learnt_tokens"):
            counted, stated = getattr(self._findings, name), getattr(self._manifest, name)
            self._findings.expect(
                counted == stated, f"{name}: {counted:,} counted, the manifest says {stated:,}"
            )

    def check_sampled(self) -> None:
        """Check blocks of rows that are spread evenly over the dataset, the last row included."""
        self._check_indices()
        self._check_records()
        if self._findings.problems:
            return
        total, rows = self._manifest.rows, max(SAMPLED_TOKENS // self._manifest.seq_length, 1)
        first_sequences = np.searchsorted(self._samples["row"], np.arange(total + 1))
        last = max(total - rows, 0)
        for start in np.unique(np.linspace(0, last, SAMPLED_BLOCKS).astype(int)).tolist():
            end = min(start + rows, total)
            self._check_rows(start, end, first_sequences[start], first_sequences[end])

    def _check_indices(self) -> None:
        borders = np.cumsum(np.bincount(self._samples["row"]))
        documents = np.concatenate([[0], borders]).astype(np.int64)
        for part, dtype in (("", self._dtype), ("_loss_mask", np.dtype(np.uint8))):
            path = part_path(self._prefix, f"{part}.idx")
            expected = index_bytes(dtype, self._lengths, documents)
            self._findings.expect(
                path.read_bytes() == expected, f"{path} does not match the samples' records"
            )

    def _check_records(self) -> None:
        samples, manifest, expect = self._samples, self._manifest, self._findings.expect
        true, multiple = samples["length"].astype(np.int64), manifest.pad_multiple
        filling = true == 0
        expect(len(samples) == len(self._lengths), "records and sequences differ in number")
        expect(len(self._rows) == manifest.rows, "P_rows.npy has another number of rows")
        if self._findings.problems:
            return
        padded = np.where(filling, self._lengths, -(-true // multiple) * multiple)
        expect((padded == self._lengths).all(), "a sequence is not its sample and its padding")
        row_tokens = np.bincount(samples["row"], self._lengths, manifest.rows)
        expect((row_tokens == manifest.seq_length).all(), "a row is not of seq_length tokens")
        last = np.append(samples["row"][1:] != samples["row"][:-1], True)
        expect((last | ~filling).all(), "padding is before a sample")
        expect((samples["kind"] < len(manifest.kinds)).all(), "a kind code has no name")
        expect(((samples["kind"] == 0) == filling).all(), "a sample has the kind of padding")
        cost = np.bincount(samples["row"], true.astype(np.float64) ** 2, manifest.rows)
        expect((cost == self._rows["attention_cost"]).all(), "a row states another cost")
        trained = np.bincount(samples["row"], samples["learnt_tokens"], manifest.rows)
        expect((trained == self._rows["learnt_tokens"]).all(), "a row states other trained tokens")
        hashes = np.sort(samples["id_hash"][~filling])
        expect((hashes[1:] != hashes[:-1]).all(), "a sample's id occurs twice")

    def _check_rows(self, start: int, end: int, first: int, last: int) -> None:
        """Check the tokens and masks of rows [start, end), sequences [first, last)."""
        findings, manifest, size = self._findings, self._manifest, self._manifest.seq_length
        where = f"rows {start} to {end - 1}:"
        tokens = self._read("", self._dtype, start, end)
        mask = self._read("_loss_mask", np.dtype(np.uint8), start, end)
        records, lengths = self._samples[first:last], self._lengths[first:last].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths[:-1])])
        true = records["length"].astype(np.int64)
        is_text = _inside(starts, true, (end - start) * size)
        findings.expect((tokens < manifest.vocab_size).all(), f"{where} an id is no piece")
        findings.expect((mask <= 1).all(), f"{where} a mask is neither 0 nor 1")
        findings.expect(not mask[~is_text].any(), f"{where} padding is trained on")
        findings.expect(
            (tokens[~is_text] == manifest.pad_id).all(), f"{where} padding is no padding"
        )
        samples = true > 0
        heads, tails = starts[samples], (starts + true - 1)[samples]
        if manifest.bos_id is not None:
            findings.expect((tokens[heads] == manifest.bos_id).all(), f"{where} a sample lacks <s>")
        findings.expect(not mask[heads].any(), f"{where} a sample's first token is trained on")
        findings.expect((tokens[tails] == manifest.eos_id).all(), f"{where} a sample lacks </s>")
        trained = np.add.reduceat(mask.astype(np.int64), starts)
        findings.expect(
            (trained == records["learnt_tokens"]).all(), f"{where} a sample's mask has another sum"
        )
        begins = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=np.int8(0)) == 1)
        owners = np.searchsorted(starts, begins, "right") - 1
        spans = np.bincount(owners, minlength=len(records))
        findings.expect(
            (spans == records["learnt_spans"]).all(), f"{where} a mask has other spans than stated"
        )
        findings.rows += end - start
        findings.samples += int(samples.sum())
        findings.tokens += int(true.sum())
        findings.learnt_tokens += int(trained.sum())
        findings.spans += len(begins)
        behind = begins[begins >= len(self._mark)]
        before = np.stack([tokens[behind - len(self._mark) + i] for i in range(len(self._mark))])
        findings.marked_spans += int((self._mark == before.T).all(axis=1).sum())

    def _read(
        self, part: str, dtype: np.dtype[Any], start: int, end: int
    ) -> npt.NDArray[np.integer[Any]]:
        size = self._manifest.seq_length
        path = part_path(self._prefix, f"{part}.bin")
        offset = start * size * dtype.itemsize
        return np.fromfile(path, dtype, (end - start) * size, offset=offset)


def _inside(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.bool_]:
    """Return which of ``size`` places lie in one of the runs that start there."""
    steps = np.zeros(size + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + lengths, -1)
    return np.cumsum(steps[:-1]) > 0


def _prompt_end(manifest: Manifest, tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return the last ids of every prompt of the dataset's template, whatever is asked."""
    one, other = (_prompt_ids(manifest, tokenizer, message)[::-1] for message in ("a", "1."))
    same = [left == right for left, right in zip(one, other, strict=False)]
    size = min(MARK_TOKENS, [*same, False].index(False))
    return np.array(one[: max(size, 1)][::-1])


def _prompt_ids(manifest: Manifest, tokenizer: Tokenizer, message: str) -> list[int]:
    *prompt, _, _ = manifest.template_object().parts(None, [Turn(message, "b")])
    return part_ids(prompt, tokenizer)
