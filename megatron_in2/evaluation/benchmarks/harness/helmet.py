"""HELMET's retrieval-augmented generation (arXiv 2410.02694): its samples, prompt and score.

As github.com/princeton-nlp/HELMET has them in configs/rag.yaml and rag_short.yaml: two solved
examples chosen by the question, at most 100 questions (each with its evidence at several depths),
no chat template, 20 new tokens. lm-evaluation-harness has no such task.
"""

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks import metrics
from megatron_in2.evaluation.benchmarks.prompting import write_within_window
from megatron_in2.evaluation.lines import Line, field
from megatron_in2.files import read_json_lines

Row = dict[str, Any]

# Source -> (questions, solved examples); {k} passages a question.
FILES = {
    "nq": ("nq-dev-multikilt_1000_k{k}_dep6.jsonl", "nq-train-multikilt_1000_k3_dep6.jsonl"),
    "triviaqa": (
        "triviaqa-dev-multikilt_1000_k{k}_dep6.jsonl",
        "triviaqa-train-multikilt_1000_k3_dep6.jsonl",
    ),
    "hotpotqa": (
        "hotpotqa-dev-multikilt_1000_k{k}_dep3.jsonl",
        "hotpotqa-train-multikilt_1000_k3_dep3.jsonl",
    ),
    "popqa": ("popqa_test_1000_k{k}_dep6.jsonl", "popqa_test_1000_k3_dep6.jsonl"),
}
PASSAGES = {8192: 50, 16384: 105, 32768: 220, 65536: 440, 131072: 1000}  # by tokens of a prompt
QUESTIONS, EXAMPLES, SEED = 100, 2, 42
_RARE = 1000  # PopQA: only what fewer look up a month

_PASSAGE = "Document (Title: {title}): {text}"
_SOLVED = "{documents}\n\nQuestion: {question}\nAnswer: {answer}"
_BEGIN_OF_ANSWER = "Answer:"
_PROMPT = (
    "Use the given documents to write a concise and short answer to the question. Write your "
    "answer in the following format:\nAnswer: [answer]\n\n{examples}{context}\n\nQuestion: "
    "{question}\n" + _BEGIN_OF_ANSWER
)


def dataset(source: str, max_seq_lengths: int, data: str | None = None, **_: Any) -> Any:
    """Return the samples of one source at one length, as the harness takes a data set.

    Args:
        source: a key of :data:`FILES`.
        max_seq_lengths: tokens of a prompt and its answer.
        data: folder that holds HELMET's ``kilt``.

    Raises:
        InputError: a file is missing or of another form, or HELMET has no such length.
    """
    import datasets

    if data is None:
        raise InputError(
            "HELMET's data is not on the hub as a data set: give --data DIR (DIR/kilt)"
        )
    if max_seq_lengths not in PASSAGES:
        raise InputError(f"--lengths {max_seq_lengths}: HELMET has {', '.join(map(str, PASSAGES))}")
    questions, solved = (
        _rows(Path(data) / "kilt" / name.format(k=PASSAGES[max_seq_lengths]), source)
        for name in FILES[source]
    )
    return {"test": datasets.Dataset.from_list(samples(source, questions, solved))}


def samples(source: str, questions: list[Row], solved: list[Row]) -> list[Row]:
    """Choose the questions that are asked and the solved examples of each.

    Returns:
        ``question``, ``answers``, ``context`` and ``examples`` (texts) of each sample.
    """
    if source == "popqa":
        questions = [row for row in questions if _is_rare(row)]
        solved = [row for row in solved if _is_rare(row)]
    key = "id" if any("id" in row for row in questions) else "question"
    names = sorted({row[key] for row in questions})
    asked = set(random.Random(SEED).sample(names, min(QUESTIONS, len(names))))
    return [
        {
            "question": row["question"],
            "answers": row["answers"],
            "context": _documents(row),
            "examples": _examples(source, row, solved, key),
        }
        for row in questions
        if row[key] in asked
    ]


def prompt(document: Row) -> str:
    """Return the prompt; a context that is too long for the window loses its end."""
    asked = {name: document[name] for name in ("examples", "question")}
    return write_within_window(
        document["context"], lambda context: _PROMPT.format(context=context, **asked)
    )


def score(document: Row, results: list[str]) -> dict[str, float]:
    """Score 1 where an answer occurs in the model's text, or in the first line of it."""
    text = _BEGIN_OF_ANSWER + results[0]
    line = text.split("\n")[0].removeprefix(_BEGIN_OF_ANSWER).strip()
    if line.lower().startswith(_BEGIN_OF_ANSWER.lower()):  # chat models say it once more
        line = line[len(_BEGIN_OF_ANSWER) :]
    return {
        "score": max(metrics.substring_match(found, document["answers"]) for found in (text, line))
    }


def _examples(source: str, row: Row, solved: list[Row], key: str) -> str:
    """Return two solved questions, the same ones at every depth of a question's evidence."""
    if source == "popqa":  # has one file for both
        solved = [other for other in solved if other[key] != row[key]]
    seed = int(hashlib.sha256(str(row[key]).encode()).hexdigest(), 16) % 2**31
    chosen: dict[Any, Row] = {}
    for index in np.random.default_rng(seed).permutation(len(solved)):  # as datasets shuffles
        chosen.setdefault(solved[index][key], solved[index])
        if len(chosen) == EXAMPLES:
            break
    else:
        raise InputError(f"HELMET's solved examples of {source}: fewer than {EXAMPLES} questions")
    return "".join(
        _SOLVED.format(
            documents=_documents(other), question=other["question"], answer=other["answers"][0]
        )
        + "\n\n"
        for other in chosen.values()
    )


def _is_rare(row: Row) -> bool:
    return bool(row["s_pop"] < _RARE)


def _documents(row: Row) -> str:
    return "\n\n".join(
        _PASSAGE.format(title=passage["title"], text=passage["text"]) for passage in row["ctxs"]
    )


def _rows(path: Path, source: str) -> list[Row]:
    return [_checked(line, source) for line in read_json_lines(path)]


def _checked(line: Line, source: str) -> Row:
    """Check a row's fields; what HELMET does not read is left out."""
    where, row = line
    kept = {
        "question": field(line, "question", str),
        "answers": field(line, "answers", list),
        "ctxs": field(line, "ctxs", list),
    }
    if not kept["answers"] or not all(isinstance(answer, str) for answer in kept["answers"]):
        raise InputError(f"{where}: field 'answers' must be a list of texts")
    for passage in kept["ctxs"]:
        if not isinstance(passage, dict) or not {"title", "text"} <= set(passage):
            raise InputError(f"{where}: a passage of 'ctxs' lacks 'title' or 'text'")
    if source == "popqa":
        kept["s_pop"] = field(line, "s_pop", int)
    return {**kept, "id": row["id"]} if "id" in row else kept
