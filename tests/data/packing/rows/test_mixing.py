"""Kinds are mixed whatever the order of the input: rows, steps, blends, shards."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.training.step.rows import TrainingRows
from tests.data.conftest import Pack, WriteSamples, text_sample

STEP = 16


@pytest.fixture(scope="module")
def by_kind(texts: list[str]) -> list[dict[str, Any]]:
    """Long, then short samples, as synthesis writes them: kind after kind."""
    long = [
        text_sample(index, texts[index % len(texts)][:3000], "What is told?", "Much. " * 8)
        for index in range(600)
    ]
    short = [text_sample(600 + index, None, f"Say {index}.", "word " * 40) for index in range(300)]
    return long + short


def _short_shares(data: PackedDataset) -> np.ndarray:
    rows = TrainingRows(str(data.prefix), seed=1)
    places = rows.at(np.arange(len(rows) // STEP * STEP))
    short = data.manifest.kinds.index("short")
    shares = []
    for start in range(0, len(places), STEP):
        records = np.concatenate([rows[place].records for place in places[start : start + STEP]])
        trained = records["learnt_tokens"]
        shares.append(trained[records["kind"] == short].sum() / trained.sum())
    return np.array(shares)


def test_every_step_has_its_share_of_every_kind(
    pack: Pack, write_samples: WriteSamples, by_kind: list[dict[str, Any]]
) -> None:
    data = pack(write_samples(by_kind), seq_length=2048)
    shares = _short_shares(data)
    assert len(shares) >= 8
    assert shares.min() > 0.5 * shares.mean()
    assert shares.max() < 1.5 * shares.mean()


def test_the_order_of_the_input_does_not_matter(
    pack: Pack, write_samples: WriteSamples, by_kind: list[dict[str, Any]]
) -> None:
    def content(records: Iterable[dict[str, Any]], name: str) -> list[bytes]:
        data = pack(write_samples(records), name=name)
        return [row.tokens.tobytes() for row in map(data.__getitem__, range(len(data)))]

    some = by_kind[::5]
    assert content(some, "there") == content(some[::-1], "back")
