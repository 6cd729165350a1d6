"""Has tasks answered by strategies: one request each, read, checked and judged."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from megatron_in2.synthesis.erasure.config import ErasureConfig
from megatron_in2.synthesis.erasure.judging import KindJudges
from megatron_in2.synthesis.erasure.mentions import prompt_mention
from megatron_in2.synthesis.erasure.samples import has_context, task_problem, teacher_messages
from megatron_in2.synthesis.erasure.strategies import ReasonedAnswer, Strategy
from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.transport import Request
from megatron_in2.synthesis.self_correction.judging import Parted
from megatron_in2.synthesis.self_correction.servers import ModelServer
from megatron_in2.synthesis.self_correction.tasks import Task
from megatron_in2.templates.base import Wording

NEEDS_EVIDENCE = "the strategy needs evidence, and the sample has none"


@dataclass(frozen=True)
class Plan:
    """A task and the strategy by which it is to be answered; None: it stays as it is."""

    task: Task
    strategy: Strategy | None


@dataclass(frozen=True)
class Trial:
    """What became of a plan.

    Args:
        plan: the task and its strategy.
        answer: what the teacher answered.
        problem: why the answer is not used; None for one that is right, or where none was asked.
        is_asked: whether a teacher was asked.
        cost: US dollars of its reply, whichever run paid.
        tokens: of its reply, as the server counted.
    """

    plan: Plan
    answer: ReasonedAnswer
    problem: str | None
    is_asked: bool = False
    cost: float = 0.0
    tokens: int = 0


class Trials:
    """Asks a teacher and judges what it says.

    Args:
        server: the teacher.
        judges: of final answers.
        config: the settings.
        wording: of the message around a question and its evidence.
    """

    def __init__(
        self, server: ModelServer, judges: KindJudges, config: ErasureConfig, wording: Wording
    ) -> None:
        self._server = server
        self._judges = judges
        self._config = config
        self._wording = wording

    def of(self, plans: Iterable[Plan]) -> Iterator[Trial]:
        """Yield the trial of each plan, in order.

        Raises:
            InputError: the server refuses the run, or the money is used up.
        """
        replies = self._server.replies(map(self._asked, plans))
        answered, again = itertools.tee(map(self._read, replies))
        judged = self._judges.verdicts(_parted(each) for each in again)
        for trial, (_, verdicts) in zip(answered, judged, strict=True):
            yield _verified(trial, verdicts.get(trial.answer.final))

    def problem(self, task: Task) -> str | None:
        """Return why a task cannot be answered and judged by any strategy, or None."""
        return task_problem(task) or self._judges.problem(task)

    def _asked(self, plan: Plan) -> tuple[tuple[Plan, str | None], list[Request]]:
        """Return why nothing is asked, or None, and the request."""
        if plan.strategy is None:
            return (plan, None), []
        problem = self.problem(plan.task)
        if problem is None and plan.strategy.needs_evidence and not has_context(plan.task):
            problem = NEEDS_EVIDENCE
        if problem is not None:
            return (plan, problem), []
        config = self._config
        messages = teacher_messages(plan.task, plan.strategy, self._wording)
        request = self._server.request(
            messages, config.max_new_tokens, temperature=config.temperature
        )
        return (plan, None), [request]

    def _read(self, item: tuple[tuple[Plan, str | None], list[Reply]]) -> Trial:
        (plan, problem), replies = item
        if not replies:
            return Trial(plan, ReasonedAnswer(), problem)
        assert plan.strategy is not None
        (reply,) = replies
        answer = plan.strategy.read(reply)
        problem = answer.problem or self._mention(plan.task, plan.strategy, answer.text)
        tokens = 0 if reply.usage is None else reply.usage.completion_tokens
        return Trial(plan, answer, problem, True, reply.cost, tokens)

    def _mention(self, task: Task, strategy: Strategy, answer: str) -> str | None:
        _, *asked = teacher_messages(task, strategy, self._wording)
        said = "\n".join(each["content"] for each in asked)
        return prompt_mention(answer, strategy.prompt, said, self._config.shared_words)


def _parted(trial: Trial) -> Parted:
    """Return what is judged of a trial: its final answer, if there is nothing else against it."""
    is_open = trial.is_asked and trial.problem is None
    return Parted(trial.plan.task, ((trial.answer.final,),) if is_open else (), trial.problem)


def _verified(trial: Trial, is_right: bool | None) -> Trial:
    if trial.problem is not None or not trial.is_asked or is_right:
        return trial
    problem = "the judge gave no verdict" if is_right is None else "wrong final answer"
    return replace(trial, problem=problem)
