"""Rows of random tokens are a packed dataset like any other."""

from pathlib import Path

import numpy as np

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.tokenizers.base import Tokenizer


def test_rows_are_what_was_asked_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    manifest = write_random_rows(tmp_path / "rows", tokenizer, 5000, [8, 16], learnt_share=0.25)
    dataset = PackedDataset(tmp_path / "rows")
    assert (len(dataset), manifest.samples, manifest.learnt_tokens) == (5000, 10_000, 30_000)
    for index in (0, 4095, 4096, 4999):  # both sides of a block's end
        row = dataset[index]
        assert row.lengths == [8, 16]
        assert np.flatnonzero(row.loss_mask).tolist() == [6, 7, 20, 21, 22, 23]
        assert row.records["row"].tolist() == [index, index]
        assert row.records["learnt_tokens"].tolist() == [2, 4]
        assert row.tokens.max() < tokenizer.vocab_size
        assert dataset.rows[index]["attention_cost"] == 8**2 + 16**2
        assert dataset.rows[index]["learnt_tokens"] == 6
    assert dataset[0].tokens.tolist() != dataset[1].tokens.tolist()
    hashes = np.concatenate([dataset[index].records["id_hash"] for index in range(5000)])
    assert len(set(hashes.tolist())) == 10_000


def test_the_seed_decides_the_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokens = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_rows(tmp_path / name, tokenizer, 2, [16], 0.1, seed)
        tokens.append(PackedDataset(tmp_path / name)[1].tokens.tolist())
    assert tokens[0] == tokens[1] != tokens[2]
