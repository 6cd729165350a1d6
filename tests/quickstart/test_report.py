"""The quickstart's last lines: what the smallest study has found."""

from pathlib import Path
from typing import Any

import pytest

from megatron_in2.files import write_json
from megatron_in2.lab import run as lab_run
from megatron_in2.lab.config import Selection
from megatron_in2.lab.study import Study
from megatron_in2.quickstart.config import QuickstartConfig
from megatron_in2.quickstart.places import Places
from megatron_in2.quickstart.report import study_lines
from megatron_in2.quickstart.run import study_step


def test_the_last_lines_are_those_of_the_study(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    for arm, accuracies in (("in2", [1.0, 0.94]), ("ends", [1.0, 0.5])):
        path = tmp_path / "lab/smallest/scores/position/1e4" / arm / "report.json"
        depths = [{"accuracy": accuracy} for accuracy in accuracies]
        write_json(path, {"average": sum(accuracies) / 2, "depths": depths})
    assert study_lines(places) == [
        (
            "model that was asked about the ends only",
            "answers 75 % of the questions, 50 % at its worst position",
        ),
        (
            "model that was asked about all positions (IN2)",
            "answers 97 % of the questions, 94 % at its worst position",
        ),
    ]


def test_the_last_step_runs_the_smallest_study(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[Study, Selection]] = []
    monkeypatch.setattr(lab_run, "run_study", lambda *given: ran.append(given))
    places = Places.below(QuickstartConfig().home)
    step: Any = study_step(places)
    assert step.continues
    step.run()
    ((study, selection),) = ran
    assert study.name == "smallest"
    assert selection.home == Path("runs/quickstart/lab/smallest")
    assert (selection.arms, selection.panels, selection.seeds) == (("in2", "ends"), ("1e4",), 1)
