"""A packed dataset of random tokens: what benchmarks train on, read by the trainer's own path."""

from pathlib import Path

import numpy as np

from megatron_in2.data.packed.describe import counts_of, encoding_of
from megatron_in2.data.packed.manifest import ROW_RECORD, SAMPLE_RECORD, Manifest, write_manifest
from megatron_in2.data.packed.row_files import RowFiles, Sequences
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer, token_dtype
from megatron_in2.tokenizers.load import MISTRAL_V1

ROWS_AT_ONCE = 4096
KINDS = ["pad", "random"]
UNIT_ROWS = 16  # any is balanced where all rows are alike


def write_random_rows(
    prefix: Path,
    tokenizer: Tokenizer,
    rows: int,
    sample_lengths: list[int],
    learnt_share: float,
    seed: int = 0,
    framed: bool = False,
) -> Manifest:
    """Write rows that are all cut alike, their tokens drawn from the whole vocabulary.

    Args:
        prefix: of the dataset; its folder must exist.
        tokenizer: whose ids are drawn, and which the manifest names.
        rows: how many.
        sample_lengths: tokens of each row's samples; they fill the row.
        learnt_share: of each sample's tokens, at its end: its answer; at least one token.
        seed: of the draws.
        framed: begin and end each sample with the tokenizer's BOS and EOS ids, as real samples do,
            so that ``in2 inspect --verify`` finds nothing.
    """
    seq_length, samples = sum(sample_lengths), len(sample_lengths)
    trained = [max(int(length * learnt_share), 1) for length in sample_lengths]
    mask = np.concatenate(
        [np.arange(size) >= size - tail for size, tail in zip(sample_lengths, trained, strict=True)]
    ).astype(np.uint8)
    dtype = np.dtype(token_dtype(tokenizer.vocab_size))
    chance = np.random.default_rng(seed)
    files = RowFiles(prefix, dtype)
    for first in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - first)
        ids = chance.integers(0, tokenizer.vocab_size, count * seq_length, dtype)
        if framed:
            starts = np.cumsum([0, *sample_lengths])
            ids.reshape(count, -1)[:, starts[:-1]] = tokenizer.bos_id
            ids.reshape(count, -1)[:, starts[1:] - 1] = tokenizer.eos_id
        files.append(ids.tobytes(), mask.tobytes() * count)
    records = np.zeros(rows * samples, SAMPLE_RECORD)
    records["row"] = np.repeat(np.arange(rows), samples)
    records["id_hash"] = np.arange(rows * samples)
    records["length"] = np.tile(sample_lengths, rows)
    records["learnt_spans"] = 1
    records["learnt_tokens"] = np.tile(trained, rows)
    records["evidence_position"] = np.nan
    records["kind"] = KINDS.index("random")
    costs = np.zeros(rows, ROW_RECORD)
    costs["attention_cost"] = sum(length**2 for length in sample_lengths)
    costs["learnt_tokens"] = sum(trained)
    lengths = np.tile(np.array(sample_lengths, np.int32), rows)
    sequences = Sequences(records, lengths, costs)
    hashes = files.finish(sequences)
    return write_manifest(
        prefix,
        Manifest(
            **encoding_of(MISTRAL_V1, tokenizer, load_template("film")),
            design="answer",
            seq_length=seq_length,
            pad_multiple=int(np.gcd.reduce(sample_lengths)),
            shard=None,
            dropped={},
            rejected={},
            notes={},
            unit_rows=UNIT_ROWS,
            **counts_of(sequences, KINDS),
        ),
        hashes,
    )
