"""The metrics of the benchmarks, from 0 to 1, as the published evaluation defines them.

Sources: github.com/microsoft/FILM (real_world_long, short_tasks), which takes the long ones from
LongBench (arXiv 2308.14508).
"""

import re
import string
from collections import Counter

from rouge import Rouge  # type: ignore[import-untyped]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NEXT_QUESTION = re.compile(r"\n\nQ(?:uestion)?: ")
_FINAL_ANSWER = re.compile(r"the answer is:?", re.IGNORECASE)
_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*\.?\d*|\.\d+)")
_LETTERS = "ABCDE"


def normalised_words(text: str) -> list[str]:
    """Lower the case, remove punctuation, then the articles, and part at white space."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def question_f1(prediction: str, references: list[str]) -> float:
    """F1 of the multisets of normalised words, of the best reference.

    The prediction ends at its first blank line.
    """
    words = normalised_words(prediction.split("\n\n")[0])
    return max(_f1(words, normalised_words(reference)) for reference in references)


def _f1(prediction: list[str], reference: list[str]) -> float:
    common = sum((Counter(prediction) & Counter(reference)).values())
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def substring_match(prediction: str, references: list[str]) -> float:
    """1 where the normalised words of a reference are in a row in the prediction's (HELMET).

    It is a match of texts: the first and last word may be parts of longer ones.
    """
    text = " ".join(normalised_words(prediction))
    return float(any(" ".join(normalised_words(reference)) in text for reference in references))


def rouge_l(prediction: str, references: list[str]) -> float:
    """F of ROUGE-L of the best reference, by the package ``rouge`` that the published figures use.

    A prediction without words, or of full stops alone, scores 0.
    """
    if not prediction.replace(".", "").strip():
        return 0.0
    scorer = Rouge(metrics=["rouge-l"])
    scores = (scorer.get_scores(prediction, reference)[0] for reference in references)
    return max(float(score["rouge-l"]["f"]) for score in scores)


def class_found(prediction: str, answer: str, classes: list[str]) -> float:
    """Share that the answer has of the class names found in the prediction's first line (TREC).

    A found name that is part of the answer's name does not count as one of them.
    """
    line = first_line(prediction)
    found = [name for name in classes if name in line and (name == answer or name not in answer)]
    return 1 / len(found) if answer in found else 0.0


def first_line(prediction: str) -> str:
    """Return the first line with text: LongBench's few-shot tasks are scored by it alone."""
    return prediction.lstrip("\n").split("\n")[0]


def choice_found(prediction: str, answer: str, candidates: list[str]) -> float:
    """1 where the candidate that the prediction's first letter of A-E names is the answer.

    The first character that is such a letter counts, wherever it is; none means A.
    """
    letter = next((character for character in prediction if character in _LETTERS), "A")
    index = _LETTERS.index(letter)
    return float(index < len(candidates) and candidates[index] == answer)


def final_number_matches(prediction: str, answer: str) -> float:
    """1 where the numbers after "The answer is" (the last one in each text) are equal.

    What follows another question that the model asks itself is cut off. An answer without those
    words is a bare number, or a worked solution whose number follows ``####`` as in GSM8K's own
    files; a prediction without them is wrong.
    """
    wanted = _number(_final_answer(answer) or answer.rpartition("####")[2])
    found = _number(_final_answer(prediction) or "")
    return float(wanted is not None and found == wanted)


def formula_matches(prediction: str, answer: str) -> float:
    r"""1 where final answers are equal formulas by the normalisation of the MATH benchmark.

    The final answer is the last ``\boxed``, else the text after the last "The answer is".
    Equality is lm-evaluation-harness' ``is_equiv``, the benchmark authors' own.
    """
    from lm_eval.tasks.hendrycks_math.utils import is_equiv  # type: ignore[import-untyped]

    found = _formula(prediction)
    return float(found is not None and is_equiv(found, _formula(answer) or answer.strip("$ .")))


def _final_answer(text: str) -> str | None:
    _, *said = _FINAL_ANSWER.split(_NEXT_QUESTION.split(text)[0])
    return said[-1].strip() if said else None


def _number(text: str) -> float | None:
    found = _NUMBER.search(text)
    return float(re.sub(r"[$,]", "", found[0])) if found else None


def _formula(text: str) -> str | None:
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed  # type: ignore[import-untyped]

    text = _NEXT_QUESTION.split(text)[0]
    boxed = last_boxed_only_string(text)
    if boxed is not None:
        return str(remove_boxed(boxed))
    final = _final_answer(text)
    return None if final is None else final.split("\n")[0].strip("$. ")
