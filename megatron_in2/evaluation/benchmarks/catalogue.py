"""The paper's benchmarks: how each is scored, and its task in lm-evaluation-harness."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from megatron_in2.choices import as_option, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks import metrics
from megatron_in2.evaluation.lines import Line, field, prediction_text, read_pairs

Score = Callable[[Line, str], float]  # (label line, prediction) -> 0 to 1


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        harness_task: its task in lm-evaluation-harness; ``film_`` ones are files of ours.
        harness_metric: what the harness calls its score.
        score: scores one prediction of a file; None where the score is made of likelihoods, which
            only the harness can take.
    """

    name: str
    harness_task: str
    harness_metric: str
    score: Score | None


@dataclass(frozen=True)
class BenchmarkScore:
    """A score in percent over ``samples``; ``nulls`` predictions were left out of both."""

    score: float
    samples: int
    nulls: int = 0


def _references(label: Line) -> list[str]:
    """Read ``answers`` (a list of texts) or ``answer`` (one)."""
    where, record = label
    if "answers" not in record:
        return [str(field(label, "answer", str))]
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


def _final_number(label: Line, prediction: str) -> float:
    return max(metrics.final_number_matches(prediction, text) for text in _references(label))


def _formula(label: Line, prediction: str) -> float:
    return max(metrics.formula_matches(prediction, text) for text in _references(label))


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
    "csqa": _choice,
    "gsm8k": _final_number,
    "math": _formula,
}
_BY_LIKELIHOOD = {
    "mmlu": "acc",
    "boolq": "acc",
    "race": "acc",
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
}
LONG = tuple(name for name, score in _GENERATED.items() if score in (_f1, _rouge))

BENCHMARKS: dict[str, Benchmark] = {
    **{name: Benchmark(name, f"film_{name}", "score", score) for name, score in _GENERATED.items()},
    **{name: Benchmark(name, name, metric, None) for name, metric in _BY_LIKELIHOOD.items()},
}


def score_benchmark(name: str, labels: Path, predictions: Path) -> BenchmarkScore:
    """Score a file of predictions against labels, line by line.

    Raises:
        InputError: there is no such benchmark, it cannot be scored from texts, the files differ
            in length, a line lacks a field, or every prediction is null.
    """
    if name not in BENCHMARKS:
        raise wrong_choice(as_option("task", name), tuple(BENCHMARKS))
    score = BENCHMARKS[name].score
    if score is None:
        raise InputError(f"{name} is scored by likelihoods: in2 evaluate run --tasks {name}")
    scores = []
    pairs = read_pairs(labels, predictions)
    for label, prediction in pairs:
        text = prediction_text(prediction)
        if text is not None:
            scores.append(score(label, text))
    if not scores:
        raise InputError(f"{predictions} holds null predictions only")
    return BenchmarkScore(100 * fmean(scores), len(scores), len(pairs) - len(scores))
