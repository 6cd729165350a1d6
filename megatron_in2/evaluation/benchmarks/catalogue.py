"""The paper's benchmarks: how each is scored, and its task in lm-evaluation-harness."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from megatron_in2.choices import as_option, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks import film_metrics, metrics
from megatron_in2.evaluation.lines import Line, field, prediction_text, read_pairs

# "film": by the rules of FILM's own scripts, where they differ from the field's practice.
Scorer = Literal["standard", "film"]
Score = Callable[[Line, str], float]  # (label line, prediction) -> 0 to 1


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        harness_task: its task in lm-evaluation-harness; ``film_`` ones are files of ours.
        harness_metric: what the harness calls its score.
        score: scores one prediction of a file; None where the score is made of likelihoods, which
            only the harness can take.
        film_score: the same by FILM's own rule; None where it is the standard one.
    """

    name: str
    harness_task: str
    harness_metric: str
    score: Score | None
    film_score: Score | None = None


@dataclass(frozen=True)
class BenchmarkScore:
    """A score in percent over ``samples``; ``nulls`` predictions were left out of both."""

    score: float
    samples: int
    nulls: int = 0
    scorer: Scorer = "standard"


def _references(label: Line) -> list[str]:
    """Read ``answers`` (a list of texts), or one text: ``answer``, or FILM's ``completion``."""
    where, record = label
    if "answers" not in record:
        name = "completion" if "answer" not in record and "completion" in record else "answer"
        return [str(field(label, name, str))]
    answers = record["answers"]
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
    ):
        raise InputError(f"{where}: field 'answers' must be a list of texts, found {answers!r:.60}")
    return answers


def _f1(label: Line, prediction: str) -> float:
    return metrics.question_f1(prediction, _references(label))


def _rouge(label: Line, prediction: str) -> float:
    return metrics.rouge_l(prediction, _references(label))


def _choice(label: Line, prediction: str) -> float:
    (answer,), candidates = _references(label), field(label, "candidates", list)
    if answer not in candidates:
        raise InputError(f"{label[0]}: the answer {answer!r:.60} is none of the 'candidates'")
    return metrics.choice_found(prediction, answer, candidates)


def _class(label: Line, prediction: str) -> float:
    classes = field(label, "all_classes", list)
    return max(metrics.class_found(prediction, answer, classes) for answer in _references(label))


def _first_line(score: Score) -> Score:
    return lambda label, prediction: score(label, metrics.first_line(prediction))


def _best(matches: Callable[[str, str], float]) -> Score:
    """Score by the reference that a prediction matches best."""
    return lambda label, prediction: max(matches(prediction, text) for text in _references(label))


_GENERATED: dict[str, Score] = {
    "narrativeqa": _f1,
    "qasper": _f1,
    "multifieldqa_en": _f1,
    "hotpotqa": _f1,
    "2wikimqa": _f1,
    "musique": _f1,
    "gov_report": _rouge,
    "qmsum": _rouge,
    "multi_news": _rouge,
    "trec": _class,
    "triviaqa": _first_line(_f1),
    "samsum": _first_line(_rouge),
    "csqa": _choice,
    "gsm8k": _best(metrics.final_number_matches),
    "math": _best(metrics.formula_matches),
}
_AS_FILM: dict[str, Score] = {
    "gsm8k": _best(film_metrics.final_number_matches),
    "math": _best(film_metrics.formula_matches),
}
_BY_LIKELIHOOD = {
    "mmlu": "acc",
    "boolq": "acc",
    "race": "acc",
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
}
# The nine tasks whose mean the paper calls LongBench.
LONG = (
    *("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"),
    *("gov_report", "qmsum", "multi_news"),
)

BENCHMARKS: dict[str, Benchmark] = {
    **{
        name: Benchmark(name, f"film_{name}", "score", score, _AS_FILM.get(name))
        for name, score in _GENERATED.items()
    },
    **{name: Benchmark(name, name, metric, None) for name, metric in _BY_LIKELIHOOD.items()},
}


def score_benchmark(
    name: str, labels: Path, predictions: Path, scorer: Scorer = "standard"
) -> BenchmarkScore:
    """Score a file of predictions of one benchmark against its labels, line by line.

    Raises:
        InputError: there is no such benchmark, it cannot be scored from texts, the files differ
            in length, a line lacks a field or is of another benchmark, or every prediction is
            null.
    """
    _rule(name, scorer)
    pairs = read_pairs(labels, predictions)
    for (where, label), _ in pairs:
        if label.get("dataset", name) != name:
            raise InputError(
                f"{where}: field 'dataset' is {label['dataset']!r}, not {name!r}: leave --task out "
                "to score each data set of the file by itself"
            )
    return _score_pairs(name, pairs, scorer, predictions)


def score_datasets(
    labels: Path, predictions: Path, scorer: Scorer = "standard"
) -> dict[str, BenchmarkScore]:
    """Score a file of several benchmarks, each by its own metric; labels name it in ``dataset``.

    Raises:
        InputError: as :func:`score_benchmark`, or a label names no benchmark.
    """
    groups: dict[str, list[tuple[Line, Line]]] = {}
    for pair in read_pairs(labels, predictions):
        if "dataset" not in pair[0][1]:
            raise InputError(f"{pair[0][0]}: field 'dataset' is missing: give --task")
        groups.setdefault(str(field(pair[0], "dataset", str)), []).append(pair)
    return {name: _score_pairs(name, pairs, scorer, predictions) for name, pairs in groups.items()}


def _score_pairs(
    name: str, pairs: list[tuple[Line, Line]], scorer: Scorer, predictions: Path
) -> BenchmarkScore:
    rule = _rule(name, scorer)
    scores = []
    for label, prediction in pairs:
        text = prediction_text(prediction)
        if text is not None:
            scores.append(rule(label, text))
    if not scores:
        raise InputError(f"{predictions} holds null predictions only ({name})")
    return BenchmarkScore(100 * fmean(scores), len(scores), len(pairs) - len(scores), scorer)


def _rule(name: str, scorer: Scorer) -> Score:
    if name not in BENCHMARKS:
        raise wrong_choice(as_option("task", name), tuple(BENCHMARKS))
    benchmark = BENCHMARKS[name]
    if benchmark.score is None:
        raise InputError(f"{name} is scored by likelihoods: in2 evaluate run --tasks {name}")
    return benchmark.film_score if scorer == "film" and benchmark.film_score else benchmark.score
