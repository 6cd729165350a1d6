"""Scores predictions by evidence position: the curve that shows whether the middle is lost."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line, field, prediction_text, read_pairs
from megatron_in2.evaluation.probing.bootstrap import interval, resampled_group_means
from megatron_in2.evaluation.probing.tasks import find_task
from megatron_in2.files import read_json

PUBLISHED_SPAN = 50  # positions


@dataclass(frozen=True)
class Grouping:
    """How positions are grouped before they are averaged.

    Args:
        span: positions in a group, counted from the start of the context.
        published: leave out the last position of each span, as the published script does (its
            ``range(start, start + span - 1)`` stops one short).
        bins: divide each context into this many equal parts instead, whatever its length.
    """

    span: int = PUBLISHED_SPAN
    published: bool = False
    bins: int | None = None

    def __post_init__(self) -> None:
        if self.bins is not None and self.published:
            raise InputError("--published groups by spans: leave --bins out")
        if self.bins is not None and self.bins < 1:
            raise InputError(f"--bins {self.bins}: give 1 or more")
        if self.span < 1 + self.published:
            raise InputError(f"--span {self.span}: give {1 + self.published} or more")

    def group(self, position: int, units: int) -> int | None:
        """Return the group of a position in a context of ``units``; None leaves it out."""
        if self.bins is not None:
            return position * self.bins // units
        if self.published and position % self.span == self.span - 1:
            return None
        return position // self.span

    def edges(self, group: int, units: int) -> tuple[float, float]:
        """Return where a group starts and ends, as fractions of the context."""
        if self.bins is not None:
            return group / self.bins, (group + 1) / self.bins
        return group * self.span / units, min((group + 1) * self.span, units) / units


@dataclass(frozen=True)
class DepthScore:
    """Probes whose evidence lies from ``start`` to ``end`` of the context (0 start, 1 end).

    Attributes:
        accuracy: mean over sets of each set's mean score.
        deviation: standard deviation of the sets' means (population), the published error bar.
        low, high: 95 % bootstrap interval of ``accuracy``; probes are resampled within sets.
        log_likelihood: mean over probes of the true answer's natural log likelihood a token;
            None where the predictions carry none.
    """

    start: float
    end: float
    probes: int
    accuracy: float
    deviation: float
    low: float
    high: float
    log_likelihood: float | None


@dataclass(frozen=True)
class ProbeReport:
    """A model's curve on one task.

    Attributes:
        name: the model's, for tables and legends.
        context_tokens: longest prompt in tokens; None where the labels do not tell.
        fill: share of the model's window that the prompts fill; None where the labels do not tell.
        units: units in a context (the most, where sets differ).
        probes: scored ones; ``skipped`` were ambiguous, ``nulls`` had no prediction.
        grouping: how positions were grouped, as text.
        average, gap: mean, and largest less smallest, of the depths' accuracies.
        average_interval, gap_interval: their 95 % bootstrap intervals. Noise alone widens a
            gap, so its interval reaches further up than down, and may lie above it.
    """

    name: str
    task: str
    context_tokens: int | None
    units: int
    sets: int
    probes: int
    skipped: int
    nulls: int
    grouping: str
    average: float
    average_interval: tuple[float, float]
    gap: float
    gap_interval: tuple[float, float]
    depths: list[DepthScore]
    fill: float | None = None


@dataclass(frozen=True)
class _Scored:
    """One probe's outcome."""

    position: int
    set_id: str
    score: float
    log_likelihood: float | None


def score_predictions(
    labels: Path,
    predictions: Path,
    grouping: Grouping,
    task_name: str | None = None,
    skip_list: Path | None = None,
    name: str | None = None,
) -> ProbeReport:
    """Score a file of predictions against the probes it answers, line by line.

    Args:
        labels: probes that ``build`` wrote, or the published ones (which name no task).
        predictions: in the published form.
        grouping: how positions are averaged.
        task_name: for labels that name none.
        skip_list: JSON list of line numbers, from 0, of ambiguous probes to leave out.
        name: the model's; the predictions' folder where not given.

    Raises:
        InputError: the files differ in length, a line lacks a field, or nothing is left to score.
    """
    pairs = read_pairs(labels, predictions)
    task = find_task(task_of_label(pairs[0][0], task_name))
    skipped = _read_skip_list(skip_list, len(pairs))
    answered = [
        (label, prediction, text)
        for index, (label, prediction) in enumerate(pairs)
        if index not in skipped and (text := prediction_text(prediction)) is not None
    ]
    units = units_of_labels([label for label, _ in pairs])
    cells: dict[int, dict[str, list[_Scored]]] = defaultdict(lambda: defaultdict(list))
    for label, prediction, text in answered:
        one = _Scored(
            position=position_of_label(label),
            set_id=str(label[1].get("set_id", 0)),
            score=task.is_right(answer_of_label(label), text),
            log_likelihood=_likelihood(prediction),
        )
        group = grouping.group(one.position, label[1].get("units", units))
        if group is not None:
            cells[group][one.set_id].append(one)
    if not cells:
        raise InputError(f"{predictions} leaves nothing to score: all null or skipped")
    groups = [
        (grouping.edges(group, units), list(cells[group].values())) for group in sorted(cells)
    ]
    scores = [[np.array([one.score for one in cell]) for cell in sets] for _, sets in groups]
    resampled = resampled_group_means(scores)
    depths = [
        _depth(edges, sets, interval(row))
        for (edges, sets), row in zip(groups, resampled, strict=True)
    ]
    accuracies = [depth.accuracy for depth in depths]
    return ProbeReport(
        name=name or predictions.resolve().parent.name,
        task=task.name,
        context_tokens=pairs[0][0][1].get("context_tokens"),
        units=units,
        sets=len({set_id for sets in cells.values() for set_id in sets}),
        probes=sum(depth.probes for depth in depths),
        skipped=len(skipped),
        nulls=len(pairs) - len(skipped) - len(answered),
        grouping=_description(grouping),
        average=float(np.mean(accuracies)),
        average_interval=interval(resampled.mean(axis=0)),
        gap=max(accuracies) - min(accuracies),
        gap_interval=interval(resampled.max(axis=0) - resampled.min(axis=0)),
        depths=depths,
        fill=_fill_of_label(pairs[0][0]),
    )


def _fill_of_label(label: Line) -> float | None:
    return float(field(label, "fill", float)) if "fill" in label[1] else None


def _depth(
    edges: tuple[float, float], sets: list[list[_Scored]], limits: tuple[float, float]
) -> DepthScore:
    means = [np.mean([one.score for one in cell]) for cell in sets]
    ones = [one for cell in sets for one in cell]
    likelihoods = [one.log_likelihood for one in ones if one.log_likelihood is not None]
    return DepthScore(
        start=edges[0],
        end=edges[1],
        probes=len(ones),
        accuracy=float(np.mean(means)),
        deviation=float(np.std(means)),
        low=limits[0],
        high=limits[1],
        log_likelihood=float(np.mean(likelihoods)) if likelihoods else None,
    )


def _description(grouping: Grouping) -> str:
    if grouping.bins is not None:
        return f"{grouping.bins} equal parts"
    left_out = ", each without its last, as published" if grouping.published else ""
    return f"spans of {grouping.span} positions{left_out}"


def task_of_label(label: Line, given: str | None) -> str:
    """Return the name of a label's task: its own, or the one given for published labels."""
    where, record = label
    named = record.get("task", given)
    if named is None:
        raise InputError(f"{where}: the labels name no task; give --task")
    if given not in (None, named):
        raise InputError(f"{where}: the labels are of task {named!r}, not --task {given}")
    return str(named)


def answer_of_label(label: Line) -> str:
    """Read the true answer: ``completion``; the database's may be ``label``, ``description``."""
    if "completion" in label[1] or "label" not in label[1]:
        return str(field(label, "completion", str))
    return f"{field(label, 'label', str)}\n{field(label, 'description', str)}"


def position_of_label(label: Line) -> int:
    """Read the unit of the context that holds the evidence, from 0."""
    position: int = field(label, "position_id", int)
    units = field(label, "units", int) if "units" in label[1] else position + 1
    if not 0 <= position < units:
        raise InputError(
            f"{label[0]}: field 'position_id' is {position}, outside the {units} units"
        )
    return position


def units_of_labels(labels: list[Line]) -> int:
    """Published labels do not tell how many units a context has, but ask for every position."""
    counts: list[int] = [label[1].get("units", position_of_label(label) + 1) for label in labels]
    return max(counts)


def _likelihood(prediction: Line) -> float | None:
    if "answer_log_likelihood" not in prediction[1]:
        return None
    tokens: int = field(prediction, "answer_tokens", int)
    if tokens < 1:
        raise InputError(f"{prediction[0]}: field 'answer_tokens' must be 1 or more")
    total: float = field(prediction, "answer_log_likelihood", float)
    return total / tokens


def _read_skip_list(path: Path | None, lines: int) -> set[int]:
    if path is None:
        return set()
    values = read_json(path)
    if not isinstance(values, list) or not all(
        isinstance(value, int) and 0 <= value < lines for value in values
    ):
        raise InputError(f"{path} must be a JSON list of line numbers from 0 to {lines - 1}")
    return set(values)
