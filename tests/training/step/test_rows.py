"""Blended training rows: the shares of the weights, the same rows whatever is resumed."""

from pathlib import Path

import numpy as np
import pytest

from megatron_in2.data.packed.blend import parse_blend
from megatron_in2.errors import InputError
from megatron_in2.training.step.rows import TrainingRows
from tests.training.conftest import Train


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", []),
        ("data/in2", [(1.0, Path("data/in2"))]),
        ("0.7 data/in2 0.3 data/chat", [(0.7, Path("data/in2")), (0.3, Path("data/chat"))]),
    ],
)
def test_data_train_is_parsed(text: str, parsed: list) -> None:
    assert parse_blend(text) == parsed


@pytest.mark.parametrize("text", ["data/in2 data/chat", "0.5 data/in2 0.5"])
def test_weights_and_prefixes_alternate(text: str) -> None:
    with pytest.raises(InputError, match=r"data\.train"):
        parse_blend(text)


def test_shares_follow_the_weights(dataset: Path) -> None:
    rows = TrainingRows(f"3 {dataset} 1 {dataset}_valid", seed=5)
    places = rows.at(np.arange(400))
    assert sum(place.dataset == 0 for place in places) == pytest.approx(300, abs=45)
    assert rows[places[0]].tokens.shape == (512,)
    assert (rows.attention_costs(places) > 0).all()
    assert rows.at(np.arange(200, 210)) == places[200:210]
    single = TrainingRows(str(dataset), seed=5)
    assert single.sha256 != rows.sha256
    assert {place.row for place in single.at(np.arange(len(single)))} == set(range(len(single)))


@pytest.mark.slow
def test_a_blended_run_trains_and_resumes_bitwise(
    dataset: Path, tmp_path: Path, train: Train
) -> None:
    blend = f"--data.train=0.8 {dataset} 0.2 {dataset}_valid"
    whole = train(tmp_path / "whole", blend)
    train(tmp_path / "cut", blend, "--schedule.exit_after_steps=2")
    resumed = train(tmp_path / "cut", blend)
    assert {step: line["loss"] for step, line in resumed.items()} == {
        step: line["loss"] for step, line in whole.items()
    }
