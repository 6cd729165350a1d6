"""Reports as files, and the table with the paper's rows beside."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.report import (
    comparison_table,
    read_probe_report,
    write_probe_report,
)
from megatron_in2.evaluation.probing.score import DepthScore, ProbeReport


def report(name: str = "mine", task: str = "document", average: float = 0.5) -> ProbeReport:
    depths = [
        DepthScore(0.0, 0.5, 100, average - 0.1, 0.02, average - 0.2, average, -1.5),
        DepthScore(0.5, 1.0, 100, average + 0.1, 0.01, average, average + 0.2, None),
    ]
    return ProbeReport(
        name=name,
        task=task,
        context_tokens=4000,
        units=100,
        sets=2,
        probes=200,
        skipped=3,
        nulls=1,
        grouping="spans of 50 positions",
        average=average,
        average_interval=(average - 0.05, average + 0.05),
        gap=0.2,
        gap_interval=(0.1, 0.3),
        depths=depths,
    )


def test_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_probe_report(report(), path)
    raw = json.loads(path.read_text())
    assert (raw["average"], raw["depths"][0]["log_likelihood"]) == (0.5, -1.5)
    table = path.with_suffix(".md").read_text()
    assert "| 0-50 % | 100 | 40.0 | 2.0 | 30.0 - 50.0 | -1.500 |" in table
    assert "3 skipped as ambiguous, 1 null predictions" in table
    assert "| FILM-7B (paper) | 85.4 / 6.1 |" in table
    again = read_probe_report(path)
    write_probe_report(again, tmp_path / "y.json")
    assert (tmp_path / "y.json").read_text() == path.read_text()


def test_the_papers_rows_are_in_the_table() -> None:
    reports = [report(task=task) for task in ("document", "code", "database")]
    table = comparison_table([*reports, report("other", "code", 0.25)]).splitlines()
    assert table[0] == "| Avg / Gap | document | code | database | all |"
    assert table[2] == "| mine | 50.0 / 20.0 | 50.0 / 20.0 | 50.0 / 20.0 | 50.0 / 20.0 |"
    assert table[3] == "| other |  | 25.0 / 20.0 |  |  |"
    # The paper prints 47.3 / 56.2, 79.0 / 32.1 and 85.9 / 13.9 for all three tasks.
    assert table[4].endswith("| 47.3 / 56.2 |")
    assert table[5].endswith("| 79.0 / 32.1 |")
    assert table[6] == (
        "| FILM-7B (paper) | 85.4 / 6.1 | 83.3 / 18.7 | 89.0 / 16.8 | 85.9 / 13.9 |"
    )


def test_tasks_of_our_own_get_a_column() -> None:
    table = comparison_table([report(task="association")]).splitlines()
    assert table[0].endswith("| all | association |")
    assert table[2].endswith("|  | 50.0 / 20.0 |")


def test_bad_reports(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two reports of mine on document"):
        comparison_table([report(), replace(report(), average=0.1)])
    for bad in ("{}", "[]", '{"depths": [{"x": 1}]}', '{"depths": 3}'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(InputError, match=r"bad\.json is no report"):
            read_probe_report(tmp_path / "bad.json")
