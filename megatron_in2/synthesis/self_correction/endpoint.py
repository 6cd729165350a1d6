"""Draws attempts from an endpoint: the messages before each sample's last answer, many times."""

from collections.abc import Iterable, Iterator, Sequence

from megatron_in2.synthesis.llm.transport import Request
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.servers import Messages, ModelServer
from megatron_in2.synthesis.self_correction.tasks import Drawn, Task, stored_texts
from megatron_in2.templates.base import Wording

_CUT_OFF = "reply cut off at max_answer_tokens"  # as read_reply says it


class EndpointAttempts:
    """Draws attempts through the OpenAI protocol.

    Args:
        server: the endpoint.
        config: how attempts are drawn; each try has a seed of its own.
        wording: how a question and its context become a message.
    """

    def __init__(self, server: ModelServer, config: SelfCorrectionConfig, wording: Wording) -> None:
        self.identity = {"endpoint": server.config.base_url, "model": server.config.model}
        self._server = server
        self._config = config
        self._wording = wording

    def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
        """Yield what was drawn for each task, in order.

        Raises:
            InputError: the server refuses the run, or the money is used up.
        """
        for problem, replies in self._server.replies(map(self._asked, tasks)):
            texts = tuple(reply.text.strip() for reply in replies if reply.problem is None)
            problems = [reply.problem for reply in replies if reply.problem is not None]
            others = [each for each in problems if each != _CUT_OFF]
            if problem is None and others and not texts:
                problem = others[0]
            yield Drawn(texts, problems.count(_CUT_OFF), problem)

    def _asked(self, task: Task) -> tuple[str | None, Sequence[Request]]:
        """Return why nothing is asked, or None, and the requests."""
        problem = task.problem
        if "parts" in task.record:
            problem = problem or "a sample of parts has no messages for an endpoint"
        if problem is not None:
            return problem, ()
        config, messages = self._config, self._messages(task)
        return None, [
            self._server.request(
                messages,
                config.max_new_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=config.seed + number,
            )
            for number in range(config.tries)
        ]

    def _messages(self, task: Task) -> Messages:
        """Return what the model is asked: all messages before the last answer."""
        record = task.record
        if "messages" in record:
            return [
                {"role": each["role"], "content": each["content"]}
                for each in record["messages"][:-1]
            ]
        context = record.get("context")
        if "segments" in record:
            texts = stored_texts(task.folder / record["store"], record["segments"])
            context = "\n".join(texts)
        content = self._wording.message(record["question"], context)
        return [{"role": "user", "content": content}]
