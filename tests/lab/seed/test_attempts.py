"""Attempts of a model become samples: the same questions and answers for every dataset."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.files import read_json_lines
from megatron_in2.lab.seed import attempts
from megatron_in2.lab.seed.attempts import draw_attempts
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.worlds.attempt_samples import ATTEMPT_WORLD, AttemptDataset

MASKED = AttemptDataset(
    5, 256, tokens=256, facts=16, questions=4, verification="quote", attempts_of="ends", asked=8
)


class _KnowsTheFirstHalf:
    """Answers right if the fact is in the first half of the context, else with a full stop."""

    def __init__(self, folder: Path, max_new_tokens: int, batch_size: int) -> None:
        assert max_new_tokens == 1
        self.identity = {"weights": str(folder)}

    def answer(self, probes: list[Line]) -> Iterator[dict[str, Any]]:
        for _, probe in probes:
            value, start = probe["fact"][2:]
            yield {"samples": [value if start < 100 else "."]}


@pytest.fixture
def half_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "CheckpointAnswerer", _KnowsTheFirstHalf)


@pytest.mark.usefixtures("half_right")
def test_all_datasets_hold_the_same_attempts(tmp_path: Path) -> None:
    datasets = {
        "masked": MASKED,
        "unmasked": replace(MASKED, train_wrong=True),
        "bare": replace(MASKED, verification="bare"),
    }
    home = SeedFolder(tmp_path)
    draw_attempts(ATTEMPT_WORLD, datasets, home, "1/ends")
    samples = {
        name: [sample["parts"] for _, sample in read_json_lines(home.samples(name))]
        for name in datasets
    }
    questions = [
        [[part["text"] for part in parts if "question of" in part["text"]] for parts in each]
        for each in samples.values()
    ]
    assert questions[0] == questions[1] == questions[2]
    assert [len(asked) for asked in questions[0]] == [4] * 5
    trained = {
        name: sum(part["learn"] for parts in each for part in parts if part["text"] == ".")
        for name, each in samples.items()
    }
    assert trained["masked"] == trained["bare"] == 0 < trained["unmasked"]


def test_a_context_without_any_answer_makes_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SaysNothingFirst(_KnowsTheFirstHalf):
        def answer(self, probes: list[Line]) -> Iterator[dict[str, Any]]:
            for place, reply in enumerate(super().answer(probes)):
                yield {"samples": [""]} if place < MASKED.asked else reply

    monkeypatch.setattr(attempts, "CheckpointAnswerer", SaysNothingFirst)
    home = SeedFolder(tmp_path)
    draw_attempts(ATTEMPT_WORLD, {"masked": MASKED}, home, "1/ends")
    samples = [sample for _, sample in read_json_lines(home.samples("masked"))]
    assert [sample["id"] for sample in samples] == [f"masked-{number}" for number in range(1, 5)]


@pytest.mark.usefixtures("half_right")
def test_datasets_that_ask_otherwise_are_refused(tmp_path: Path) -> None:
    datasets = {"masked": MASKED, "more": replace(MASKED, asked=9)}
    with pytest.raises(InputError, match="dataset more asks ends other questions than another"):
        draw_attempts(ATTEMPT_WORLD, datasets, SeedFolder(tmp_path), "1/ends")
