"""A second model: it judges attempts by the reference answer, and says what is wrong with them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.prompts import fill
from megatron_in2.synthesis.llm.replies import read_object
from megatron_in2.synthesis.llm.transport import Request
from megatron_in2.synthesis.self_correction.judging import Parted, Verdicts
from megatron_in2.synthesis.self_correction.servers import ModelServer
from megatron_in2.synthesis.self_correction.tasks import Task, stored_texts

PROMPTS = Path(__file__).with_name("prompts")
_LONGEST_CORRECTION = 2000  # characters; more is no sentence or two


class Teacher:
    """Asks a model that sees the question, the reference answer and the evidence, no more.

    Args:
        server: the model.
    """

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._judge = (PROMPTS / "judge.txt").read_text(encoding="utf-8")
        self._correction = (PROMPTS / "correction.txt").read_text(encoding="utf-8")

    def problem(self, reference: str) -> str | None:
        """None: a model judges by any reference."""
        return None

    def verdicts(self, items: Iterable[Parted]) -> Iterator[tuple[Parted, Verdicts]]:
        """Yield each item with the verdict on each of its texts; None where there is none."""
        asked = (
            (each, [self._request(self._judge, each.task, text) for text in each.texts])
            for each in items
        )
        for each, replies in self._server.replies(asked):
            yield each, dict(zip(each.texts, map(_verdict, replies), strict=True))

    def corrections(
        self, items: Iterable[tuple[Task, str | None]]
    ) -> Iterator[tuple[Task, str | None]]:
        """Yield each task with what is wrong with its attempt; None where that is not said.

        Args:
            items: tasks, each with a wrong attempt or None.
        """
        asked = (
            (task, [] if text is None else [self._corrected(task, text)]) for task, text in items
        )
        for task, replies in self._server.replies(asked):
            yield task, _said(replies[0]) if replies else None

    def _corrected(self, task: Task, attempt: str) -> Request:
        evidence = evidence_of(task) or "(not known)"
        return self._request(self._correction, task, attempt, evidence=evidence)

    def _request(self, prompt: str, task: Task, attempt: str, **more: str) -> Request:
        config = self._server.config
        content = fill(
            prompt, question=task.question, reference=task.reference, attempt=attempt, **more
        )
        messages = [{"role": "user", "content": content}]
        return self._server.request(messages, config.max_answer_tokens, temperature=0.0)


def evidence_of(task: Task) -> str:
    """Return the texts that a sample names as its evidence; empty where it names none."""
    record = task.record
    if "segments" in record:
        segments = [record["segments"][slot] for slot in record["evidence"]]
        return "\n\n".join(stored_texts(task.folder / record["store"], segments))
    context, spans = record.get("context") or "", record.get("evidence") or []
    return "\n\n".join(context[start:end] for start, end in spans)


def _verdict(reply: Reply) -> bool | None:
    values: Mapping[str, object] = {} if reply.problem else read_object(reply.text) or {}
    found = values.get("right")
    return found if isinstance(found, bool) else None


def _said(reply: Reply) -> str | None:
    values: Mapping[str, object] = {} if reply.problem else read_object(reply.text) or {}
    found = values.get("correction")
    if not isinstance(found, str) or not 0 < len(found.strip()) <= _LONGEST_CORRECTION:
        return None
    return found.strip()
