"""Bias by the share of the window that a context fills."""

from dataclasses import replace

import pytest

from megatron_in2.evaluation.probing.fill import bias_of, fill_table, fullest
from megatron_in2.evaluation.probing.report import comparison_table
from megatron_in2.evaluation.probing.score import DepthScore, ProbeReport
from tests.evaluation.probing.test_report import report


def _with(accuracies: list[float], fill: float | None, name: str = "mine") -> ProbeReport:
    count = len(accuracies)
    depths = [
        DepthScore(place / count, (place + 1) / count, 10, value, 0.0, value, value, None)
        for place, value in enumerate(accuracies)
    ]
    average = sum(accuracies) / count
    tokens = None if fill is None else int(fill * 8000)
    return replace(
        report(name), depths=depths, fill=fill, average=average, context_tokens=tokens, gap=0.1
    )


def test_bias_is_of_the_thirds() -> None:
    bias = bias_of(_with([0.9, 0.7, 0.2, 0.4, 0.5, 0.6], 0.5))
    assert bias is not None
    assert (bias.start, bias.middle, bias.end) == pytest.approx((0.8, 0.3, 0.55))
    assert (bias.primacy, bias.recency) == pytest.approx((0.5, 0.25))
    assert bias_of(_with([0.9, 0.7], 0.5)) is None  # no span of the middle


def test_the_table_by_fill() -> None:
    reports = [_with([0.5, 0.4, 0.9], 1.0), _with([0.9, 0.3, 0.9], 0.25), _with([1, 1, 1], None)]
    assert fill_table(reports[2:]) == ""
    rows = fill_table([*reports, _with([0.5, 0.5], 0.5, "other")]).splitlines()[2:]
    assert rows == [
        "| mine | document | 25 % | 2,000 | 70.0 | 90.0 | 30.0 | 90.0 | 60.0 | 60.0 |",
        "| mine | document | 100 % | 8,000 | 60.0 | 50.0 | 40.0 | 90.0 | 10.0 | 50.0 |",
        "| other | document | 50 % | 4,000 | 50.0 |  |  |  |  |  |",
    ]


def test_models_are_compared_by_their_fullest_window() -> None:
    full, part = _with([0.5, 0.4, 0.9], 1.0), _with([0.9, 0.3, 0.9], 0.25)
    other = _with([0.1, 0.1, 0.1], None, "other")
    assert fullest([part, full, other]) == [full, other]
    assert "| mine | 60.0 / 10.0 |" in comparison_table(fullest([part, full, other]))
