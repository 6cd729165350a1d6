"""What the teacher reads of a sample, and the sample that the student gets."""

from typing import Any

from megatron_in2.synthesis.erasure.strategies import Strategy
from megatron_in2.synthesis.self_correction.samples import answered_record
from megatron_in2.synthesis.self_correction.servers import Messages
from megatron_in2.synthesis.self_correction.tasks import Task
from megatron_in2.synthesis.self_correction.teacher import evidence_of
from megatron_in2.templates.base import Wording


def task_problem(task: Task) -> str | None:
    """Return why no teacher can be asked about a sample, or None."""
    if task.problem is not None:
        return task.problem
    if "parts" in task.record:
        return "a sample of parts has no messages for a teacher"
    if has_context(task) and not evidence_of(task).strip():
        return "context without evidence: the teacher would have to read all of it"
    return None


def has_context(task: Task) -> bool:
    """Whether a sample has a context, of which the teacher sees the evidence only."""
    return "segments" in task.record or bool(task.record.get("context"))


def teacher_messages(task: Task, strategy: Strategy, wording: Wording) -> Messages:
    """Return what the teacher is sent: strategy and task, of the context the evidence only."""
    record = task.record
    system = {"role": "system", "content": _joined(strategy.prompt, _own_system(record))}
    if "messages" in record:
        said = [{"role": each["role"], "content": each["content"]} for each in record["messages"]]
        return [system, *(each for each in said[:-1] if each["role"] != "system")]
    evidence = evidence_of(task) if has_context(task) else None
    return [system, {"role": "user", "content": wording.message(record["question"], evidence)}]


def erased_record(task: Task, strategy: Strategy, answer: str) -> dict[str, Any]:
    """Return the sample with a reasoned answer, the prompt behind it, and the strategy's name.

    The prompt is the ``system`` field, or a chat's system message; the design prompt-erasing
    puts something else in its place.
    """
    record = answered_record(task, answer)
    prompt = _joined(strategy.prompt, _own_system(record))
    if "messages" in record:
        said = [each for each in record["messages"] if each["role"] != "system"]
        record["messages"] = [{"role": "system", "content": prompt}, *said]
    else:
        record["system"] = prompt
    return {**record, "strategy": strategy.name}


def _own_system(record: dict[str, Any]) -> str:
    """Return the system message that a sample has itself; empty where it has none."""
    for message in record.get("messages", ()):
        if message["role"] == "system":
            return str(message["content"])
    return record.get("system") or ""


def _joined(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))
