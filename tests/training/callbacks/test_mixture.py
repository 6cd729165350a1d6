"""A run over lumpy data says so before its first step; even data give no warning."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron_in2.training.callbacks.mixture import LumpyDataWarning, kind_shares
from megatron_in2.training.step.rows import TrainingRows
from tests.data.conftest import Pack, WriteSamples, pack, write_samples

__all__ = ["pack", "write_samples"]


def _state(rows: TrainingRows, batch: int) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(schedule=SimpleNamespace(global_batch_rows=batch)),
        world=SimpleNamespace(is_main=True),
        rows=rows,
        step=0,
        consumed_rows=0,
        total_steps=20,
    )


@pytest.fixture
def rows(pack: Pack, write_samples: WriteSamples) -> TrainingRows:
    """Every eighth row is an essay, which has nearly all trained tokens."""
    records = [
        {
            "id": f"{index}",
            "kind": "note" if index % 8 else "essay",
            "parts": [{"text": "word " * (3 if index % 8 else 400), "learn": True}],
        }
        for index in range(320)
    ]
    data = pack(write_samples(records), seq_length=512, no_packing=True)
    return TrainingRows(str(data.prefix), seed=3)


def test_lumpy_data_warn(rows: TrainingRows, capsys: pytest.CaptureFixture[str]) -> None:
    LumpyDataWarning().on_start(_state(rows, 16))
    assert capsys.readouterr().out == ""
    (dataset,) = rows.datasets
    dataset.manifest = replace(dataset.manifest, unit_rows=0)  # rows in any order, as before
    LumpyDataWarning().on_start(_state(rows, 16))
    warning = capsys.readouterr().out
    assert "WARNING the trained tokens of a step vary by" in warning
    assert "preprocess_in2.py" in warning
    LumpyDataWarning().on_start(_state(rows, 8))  # so few rows differ, however they are packed
    assert capsys.readouterr().out == ""


def test_shares_are_named_by_kind(rows: TrainingRows) -> None:
    shares = kind_shares(rows, rows.at(np.arange(16)))
    assert list(shares) == ["trained_share/essay", "trained_share/note"]
    assert shares["trained_share/essay"] == pytest.approx(0.95, abs=0.04)
    assert sum(shares.values()) == pytest.approx(1)
