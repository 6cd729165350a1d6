"""Benchmark scores as files, and one table: a model, its base, and the paper's columns."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import LONG, BenchmarkScore
from megatron_in2.evaluation.paper import BENCHMARKS as PAPER
from megatron_in2.evaluation.paper import RULER_32K, RULER_32K_NAME
from megatron_in2.files import read_json, write_json


@dataclass(frozen=True)
class ModelScores:
    """A model's scores by benchmark, and the reason by benchmark for those not run."""

    model: str
    scores: dict[str, BenchmarkScore]
    not_run: dict[str, str] = field(default_factory=dict)


def read_model_scores(path: Path) -> ModelScores:
    """Read what :func:`add_model_scores` wrote.

    Raises:
        InputError: it is missing or of another form.
    """
    value = read_json(path)
    try:
        scores = {name: BenchmarkScore(**score) for name, score in value["scores"].items()}
        return ModelScores(value["model"], scores, dict(value["not_run"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no scores of in2 evaluate") from error


def add_model_scores(new: ModelScores, output: Path) -> None:
    """Write scores, beside those of other benchmarks that ``output`` may hold of this model.

    Raises:
        InputError: ``output`` holds another model's scores.
    """
    if output.exists():
        old = read_model_scores(output)
        if old.model != new.model:
            raise InputError(f"{output} holds scores of {old.model}, not {new.model}")
        scores = old.scores | new.scores
        missing = old.not_run | new.not_run
        new = ModelScores(
            new.model,
            scores,
            {name: reason for name, reason in missing.items() if name not in scores},
        )
    write_json(output, asdict(new))


@dataclass(frozen=True)
class BenchmarkRow:
    """One benchmark's scores in percent; None where there is none."""

    name: str
    own: float | None
    base: float | None
    paper_base: float | None
    paper_film: float | None


def benchmark_rows(model: ModelScores, base: ModelScores | None) -> list[BenchmarkRow]:
    """Return the benchmarks of a model or its base: the paper's, in its order, then all others.

    "LongBench" is the mean of the paper's nine tasks, where all of them are there.
    """
    own, other = _values(model), _values(base) if base else {}
    paper = _with_long_mean({name: row[0] for name, row in PAPER.items()})
    film = _with_long_mean({name: row[1] for name, row in PAPER.items()})
    return [
        BenchmarkRow(name, own.get(name), other.get(name), paper.get(name), film.get(name))
        for name in paper | own | other
        if name in own or name in other
    ]


def benchmark_table(model: ModelScores, base: ModelScores | None) -> str:
    """Return the scores as Markdown beside the paper's, the drop against the base in red."""
    columns = [model.model] if base is None else [model.model, base.model, "change"]
    heads = ["benchmark", *columns, "Mistral-7B-Instruct-v0.2 (paper)", "FILM-7B (paper)", "change"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in benchmark_rows(model, base):
        cells = [row.name, _number(row.own)]
        if base is not None:
            cells += [_number(row.base), _change(row.own, row.base)]
        cells += [_number(row.paper_base), _number(row.paper_film)]
        cells.append(_change(row.paper_film, row.paper_base))
        lines.append(f"| {' | '.join(cells)} |")
    if published := published_beside(benchmark_rows(model, base)):
        lines += ["", published]
    missing = [f"- {name}: {reason}" for name, reason in model.not_run.items()]
    if missing:
        lines += ["", "Not run:", "", *missing]
    return "\n".join(lines) + "\n"


def published_beside(rows: list[BenchmarkRow]) -> str:
    """Return other models' RULER scores at 32K, where a row is of that; else nothing."""
    if all(row.name != RULER_32K_NAME for row in rows):
        return ""
    models = ", ".join(f"{name} {score}" for name, score in RULER_32K.items())
    return f"Published RULER scores at 32K: {models}."


def _values(scores: ModelScores) -> dict[str, float]:
    return _with_long_mean({name: score.score for name, score in scores.scores.items()})


def _with_long_mean(values: dict[str, float]) -> dict[str, float]:
    if any(name not in values for name in LONG):
        return values
    rest = {name: value for name, value in values.items() if name not in LONG}
    long = {name: values[name] for name in LONG}
    return {**long, "LongBench": fmean(long.values()), **rest}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _change(value: float | None, before: float | None) -> str:
    if value is None or before is None:
        return ""
    change = f"{value - before:+.1f}"
    return f'<span style="color:red">**{change}**</span>' if value < before else change
