"""What RULER's tasks are made of: essays as haystack, and questions of SQuAD and HotpotQA.

The tasks are lm-evaluation-harness' own, and so are their generators, which fetch these three from
the network. Here they may be files. The other six tasks need none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.harness_tasks import CANNOT_BE_HAD, why
from megatron_in2.files import read_json, read_json_lines
from megatron_in2.parallel.replaced import replaced

# Task -> which source it is made of.
NEEDS: dict[str, str] = {
    **dict.fromkeys(("niah_single_2", "niah_single_3", "niah_multikey_1"), "essays"),
    **dict.fromkeys(("niah_multivalue", "niah_multiquery"), "essays"),
    "ruler_qa_squad": "squad",
    "ruler_qa_hotpot": "hotpotqa",
}
_REMEDIES = {
    "essays": "--essays FILE or DIR, any prose",
    "squad": "--squad dev-v2.0.json",
    "hotpotqa": "--hotpotqa hotpot_dev_distractor_v1.json",
}
_QUESTIONS_ASKED = 500  # that each of the two tasks takes from the head of its file

# (questions, documents), as the harness reads them.
Questions = tuple[list[dict[str, Any]], list[str]]


@dataclass(frozen=True)
class RulerSources:
    """The sources that could be had.

    Attributes:
        found: ``essays``: all words in order; ``squad`` and ``hotpotqa``: their questions.
        missing: reason by source, with what to give.
    """

    found: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def read_sources(config: HarnessConfig) -> RulerSources:
    """Read the files that are given; take the others from where the harness has them.

    Raises:
        InputError: a file cannot be used.
    """
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, remedy in _REMEDIES.items():
        path: Path | None = getattr(config, name)
        if path is not None:
            found[name] = _read_essays(path) if name == "essays" else _read_questions(name, path)
            continue
        try:
            found[name] = _fetch(name)
        except CANNOT_BE_HAD as error:
            missing[name] = f"it needs {name}, which could not be fetched: give {remedy}"
            missing[name] += f" ({why(error)})"
    return RulerSources(found, missing)


def require_words(sources: RulerSources, ids: Callable[[str], list[int]], tokens: int) -> None:
    """Check that the essays are as long as a prompt; the harness would make it shorter, silently.

    Args:
        sources: with or without essays.
        ids: the model's tokenizer.
        tokens: of the longest prompt.

    Raises:
        InputError: they are shorter.
    """
    if "essays" not in sources.found:
        return
    found = len(ids(" ".join(sources.found["essays"])))
    if found < tokens:
        raise InputError(
            f"the essays hold {found:,} tokens, a prompt of RULER {tokens:,}: give more text in "
            "--essays, or shorter --lengths"
        )


def generator(task: str, sources: RulerSources) -> Callable[..., Any] | None:
    """Return what generates a task's samples from a source; None for a task that needs none."""
    if task not in NEEDS:
        return None
    source = sources.found[NEEDS[task]]
    if NEEDS[task] == "essays":
        return partial(_hidden_in_essays, task, source)
    return partial(_asked_of, NEEDS[task], source)


def has_answers(task: Any) -> bool:
    """Return whether the samples of a loaded task ask for anything.

    The harness makes samples without an answer, and then divides by their number, where a
    tokenizer parts text so finely that the shortest list of words is too long (``ruler_cwe``).
    """
    return all(task.dataset["test"]["outputs"])


def _hidden_in_essays(task: str, words: list[str], **options: Any) -> Any:
    """Generate a task's samples by the harness' function of its name, with these essays."""
    from lm_eval.tasks.ruler import niah_utils, prepare_niah  # type: ignore[import-untyped]

    sentences = _sentences(words) or prepare_niah.cached_sent_tokenize
    instead: dict[Any, dict[str, Any]] = {
        niah_utils: {"get_haystack": lambda type_haystack: words},
        prepare_niah: {"cached_sent_tokenize": sentences},
    }
    with replaced(instead):
        return getattr(niah_utils, task)(**options)


def _asked_of(name: str, questions: Questions, **options: Any) -> Any:
    from lm_eval.tasks.ruler import qa_utils

    with replaced({qa_utils: {f"read_{name}": lambda: questions}}):
        return qa_utils.get_qa_dataset(name, **options)


def _sentences(words: list[str]) -> Callable[[str], list[str]] | None:
    """Return what parts a text into sentences, where NLTK's trained model is not installed.

    It is the same method (Punkt), which learns abbreviations from the essays themselves.
    """
    import nltk  # type: ignore[import-untyped]

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        trained = nltk.tokenize.punkt.PunktSentenceTokenizer(" ".join(words))
        return lru_cache(maxsize=1024)(trained.tokenize)
    return None


def _fetch(name: str) -> Any:
    from lm_eval.tasks.ruler import prepare_niah, qa_utils

    if name == "essays":
        return prepare_niah.get_haystack("essay")
    return getattr(qa_utils, f"read_{name}")()


def _read_essays(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        texts = [_text(where, row) for where, row in read_json_lines(path)]
    else:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"--essays {path}: the folder holds no .txt file")
        texts = [_read_text(file) for file in files]
    return " ".join(texts).split()


def _text(where: str, row: dict[str, Any]) -> str:
    if not isinstance(row.get("text"), str):
        raise InputError(f"{where}: field 'text' must be a text")
    return str(row["text"])


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--essays: {path} is not UTF-8 text ({error.reason})") from error


def _read_questions(name: str, path: Path) -> Questions:
    """Read a file by the harness' own function, which else downloads it."""
    from lm_eval.tasks.ruler import qa_utils

    value = read_json(path)
    read = getattr(qa_utils, f"read_{name}").__wrapped__  # without its cache
    try:
        with replaced({qa_utils: {"download_json": lambda url: value}}):
            questions, documents = read()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not of the form of {_REMEDIES[name].split()[1]} ({why(error)})"
        ) from error
    if len(questions) < _QUESTIONS_ASKED:
        raise InputError(
            f"{path} holds {len(questions)} questions with answers: RULER asks {_QUESTIONS_ASKED}"
        )
    return questions, documents
