"""Writes the samples: a right attempt with its verification, wrong ones with a correction."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_in2.synthesis.self_correction.tasks import Task
from megatron_in2.synthesis.self_correction.wordings import Verifications

_COUNTED = ("n_tokens", "template_sha256")  # a recipe's length, which other answers change


def verified_record(task: Task, attempt: str, verifications: Verifications) -> dict[str, Any]:
    """Return the sample whose answer is a right attempt and the sentence that confirms it."""
    return _changed(
        task, "verified", f"{attempt} {verifications.of_right(task.sample.id)}", attempts=None
    )


def corrected_record(
    task: Task, attempts: Sequence[str], verifications: Verifications, explanation: str | None
) -> dict[str, Any]:
    """Return the sample with wrong attempts, each refused, and the confirmed reference answer.

    ``attempt`` is not trained on but for its verifications; they and the answer are.

    Args:
        task: the sample.
        attempts: wrong ones, in order.
        verifications: the sentences that refuse and confirm.
        explanation: what is wrong with the last attempt, if somebody says it.
    """
    identity = task.sample.id
    refused = [
        {"text": text, "verification": verifications.of_wrong(identity, place)}
        for place, text in enumerate(attempts)
    ]
    pieces = explanation, task.reference, verifications.of_right(identity)
    answer = " ".join(filter(None, pieces))
    return _changed(task, "corrected", answer, refused)


def _changed(
    task: Task, use: str, answer: str, attempts: list[dict[str, str]] | None
) -> dict[str, Any]:
    record = {**answered_record(task, answer), "kind": f"{task.sample.kind}_{use}"}
    return record if attempts is None else {**record, "attempt": attempts}


def answered_record(task: Task, answer: str) -> dict[str, Any]:
    """Return a sample of any form with another last answer, without the length that it states."""
    record = {name: value for name, value in task.record.items() if name not in _COUNTED}
    if "messages" in record:
        *earlier, last = record["messages"]
        return {**record, "messages": [*earlier, {**last, "content": answer}]}
    if "parts" in record:
        *prompt, last = record["parts"]
        return {**record, "parts": [*prompt, {**last, "text": answer}]}
    return {**record, "answer": answer}


def sample_line(record: dict[str, Any], task: Task, output: Path) -> str:
    """Return a task's record as a line of ``output``: a recipe's store is named from there.

    A field that nobody reads may hold half a surrogate pair, which UTF-8 has no bytes for: such a
    line is escaped, as in the file that it comes from.
    """
    if "store" in record and "segments" in record:
        store = os.path.relpath(task.folder / record["store"], output.parent)
        record = {**record, "store": store}
    line = json.dumps(record, ensure_ascii=False)
    is_unicode = line.encode("utf-8", "replace").decode() == line
    return (line if is_unicode else json.dumps(record)) + "\n"
