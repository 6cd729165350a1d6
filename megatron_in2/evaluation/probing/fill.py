"""How the bias by evidence position changes with the share of the window that a context fills.

A model that loses the middle does so mostly while its window is less than half full; beyond that
the start loses too, and what is left is a preference for the end (arXiv 2508.07479).
"""

from dataclasses import dataclass
from statistics import fmean

from megatron_in2.evaluation.probing.score import ProbeReport


@dataclass(frozen=True)
class Bias:
    """Mean accuracies of a report in the thirds of its contexts, from 0 to 1.

    Where evidence lies is told by the middle of its span of positions.
    """

    start: float
    middle: float
    end: float

    @property
    def primacy(self) -> float:
        """How much better the start is than the middle."""
        return self.start - self.middle

    @property
    def recency(self) -> float:
        """How much better the end is than the middle."""
        return self.end - self.middle


def bias_of(report: ProbeReport) -> Bias | None:
    """Return a report's bias; None where a third of its contexts has no span of its own."""
    thirds: list[list[float]] = [[], [], []]
    for depth in report.depths:
        place = (depth.start + depth.end) / 2
        thirds[min(int(3 * place), 2)].append(depth.accuracy)
    return Bias(*map(fmean, thirds)) if all(thirds) else None


def fullest(reports: list[ProbeReport]) -> list[ProbeReport]:
    """Return the reports to compare models by: of each model and task those of the largest fill."""
    largest: dict[tuple[str, str], float] = {}
    for report in reports:
        key = report.name, report.task
        largest[key] = max(largest.get(key, 0.0), report.fill or 0.0)
    return [
        report for report in reports if (report.fill or 0.0) == largest[report.name, report.task]
    ]


def fill_table(reports: list[ProbeReport]) -> str:
    """Return bias by fill as Markdown, in percent; empty where no report tells its fill."""
    filled = [report for report in reports if report.fill is not None]
    if not filled:
        return ""
    heads = (
        *("model", "task", "window filled", "tokens", "Avg", "start", "middle", "end"),
        *("start - middle", "end - middle"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for report in sorted(filled, key=lambda each: (each.name, each.task, each.fill)):
        bias = bias_of(report)
        values = [report.average]
        if bias is not None:
            values += [bias.start, bias.middle, bias.end, bias.primacy, bias.recency]
        cells = [report.name, report.task, f"{100 * (report.fill or 0):g} %"]
        cells += [f"{report.context_tokens:,}" if report.context_tokens else ""]
        cells += [f"{100 * value:.1f}" for value in values]
        cells += [""] * (len(heads) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
