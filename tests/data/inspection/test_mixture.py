"""The mixture of a dataset's steps, against its masks; as a table and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_in2.data.inspection.mixture import as_table, epoch_mixture, plot_mixture
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.errors import InputError
from megatron_in2.training.step.rows import TrainingRows
from tests.data.conftest import Pack, WriteSamples

STEP = 4


@pytest.fixture
def data(pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]) -> Any:
    return pack(write_samples(mixed_records[:120]), seq_length=1024, overlong="drop")


def test_it_is_what_training_reads(data: PackedDataset) -> None:
    """Against the masks of the rows that a run reads, sample by sample."""
    mixture = epoch_mixture(data.prefix, STEP, seed=7)
    rows = TrainingRows(str(data.prefix), seed=7)
    steps = len(rows) // STEP
    assert mixture.trained.shape == (steps, len(data.manifest.kinds)) > (4, 3)
    expected = np.zeros_like(mixture.trained)
    places = rows.at(np.arange(steps * STEP))
    for number, place in enumerate(places):
        row, start = rows[place], 0
        for padded, record in zip(row.lengths, row.records, strict=True):
            trained = row.loss_mask[start : start + padded].sum()
            expected[number // STEP, int(record["kind"])] += trained
            start += padded
    assert np.array_equal(mixture.trained, expected)
    columns = [rows.kinds.index(kind) for kind in mixture.kinds]
    by_row = rows.trained_by_kind(places)[:, columns].reshape(steps, STEP, -1)
    assert np.array_equal(by_row.sum(axis=1), expected)
    assert not np.array_equal(epoch_mixture(data.prefix, STEP, seed=8).trained, expected)


def test_a_blend_counts_kinds_by_name(
    data: PackedDataset, pack: Pack, write_samples: WriteSamples
) -> None:
    other = pack(
        write_samples([{"id": "x", "parts": [{"text": "abc", "learn": True}], "kind": "aaa"}]),
        name="other",
    )
    rows = TrainingRows(f"0.9 {data.prefix} 0.1 {other.prefix}", seed=1)
    places = rows.at(np.arange(40))
    by_kind = dict(zip(rows.kinds, rows.trained_by_kind(places).sum(axis=0).tolist(), strict=True))
    readings = sum(place.dataset == 1 for place in places)
    assert by_kind["aaa"] == readings * other.manifest.learnt_tokens > 0
    assert by_kind["pad"] == 0
    assert sum(by_kind.values()) == sum(int(rows[place].loss_mask.sum()) for place in places)


def test_it_is_shown(data: PackedDataset, tmp_path: Path) -> None:
    mixture = epoch_mixture(data.prefix, STEP, seed=7)
    table = as_table(mixture, STEP, ["short", "chat"])
    assert f"{len(mixture.per_step):,} steps of 4 rows" in table
    assert f"coefficient of variation {mixture.variation:.3f}" in table
    (line,) = [line for line in table.splitlines() if line.startswith("short + chat")]
    shares = mixture.shares("short", "chat")
    assert line.split()[-5:-1] == [
        f"{value:.3f}"
        for value in (
            mixture.total_share("short", "chat"),
            shares.min(),
            shares.mean(),
            shares.max(),
        )
    ]
    plot_mixture(mixture, tmp_path / "out" / "steps.png")
    assert (tmp_path / "out" / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_shown(data: PackedDataset) -> None:
    with pytest.raises(InputError, match=r"a step of 1,000 does not fit: .*--rows-per-step"):
        epoch_mixture(data.prefix, 1000, seed=7)
    with pytest.raises(InputError, match="--rows-per-step 0"):
        epoch_mixture(data.prefix, 0, seed=7)
    with pytest.raises(InputError, match="--together shorts: the dataset has no such kind"):
        as_table(epoch_mixture(data.prefix, STEP, seed=7), STEP, ["shorts"])
