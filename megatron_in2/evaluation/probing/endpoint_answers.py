"""Answers through any OpenAI-compatible endpoint: vLLM serving an export, or a hosted model."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import openai

from megatron_in2.choices import as_option, require_choices
from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.templates.film import FILM

Api = Literal["completions", "chat"]
_TIMEOUT_SECONDS = 600.0  # of one answer


@dataclass(frozen=True)
class EndpointConfig:
    """An endpoint and how it is asked; its key is taken from OPENAI_API_KEY.

    Args:
        url: its base, such as http://localhost:8000/v1.
        model: the name that it serves.
        api: ``completions`` sends the prompt as it is, template and all (vLLM); ``chat`` sends the
            user's message in it, without the template's marks, for models that have a chat
            template of their own.
        concurrency: requests under way at once.
        retries: of a request that fails, before the run stops.
    """

    url: str
    model: str
    api: Api = "completions"
    concurrency: int = 8
    retries: int = 5

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        if self.concurrency < 1 or self.retries < 0:
            raise InputError("--concurrency: give 1 or more; --retries: 0 or more")


class EndpointAnswerer:
    """Greedy answers of an endpoint; a prediction has ``samples`` only.

    An answer that the endpoint leaves out (``content: null``) is kept as a null prediction.
    """

    def __init__(self, config: EndpointConfig, max_new_tokens: int) -> None:
        self.config = config
        self.max_new_tokens = max_new_tokens
        self.identity = {
            "endpoint": config.url,
            "model": config.model,
            "api": config.api,
            "max_new_tokens": max_new_tokens,
        }
        self._client = openai.OpenAI(
            base_url=config.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=config.retries,
            timeout=_TIMEOUT_SECONDS,
        )

    def answer(self, probes: list[Line]) -> Iterator[dict[str, Any]]:
        """Yield one prediction a probe, in order, whatever order they are answered in.

        Raises:
            InputError: the endpoint fails for good.
        """
        waiting: deque[tuple[str, Future[str | None]]] = deque()
        executor = ThreadPoolExecutor(self.config.concurrency)
        try:
            for where, probe in probes:
                waiting.append((where, executor.submit(self._ask, self._asked(where, probe))))
                if len(waiting) == self.config.concurrency:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            executor.shutdown(cancel_futures=True)

    def _next(self, waiting: deque[tuple[str, Future[str | None]]]) -> dict[str, Any]:
        where, future = waiting.popleft()
        try:
            return {"samples": [future.result()]}
        except openai.OpenAIError as error:
            raise InputError(
                f"{where}: {self.config.url} failed: {error}; answers so far are kept, the same "
                "command continues from here"
            ) from error

    def _asked(self, where: str, probe: dict[str, Any]) -> str:
        return probe["prompt"] if self.config.api == "completions" else user_message(where, probe)

    def _ask(self, prompt: str) -> str | None:
        if self.config.api == "completions":
            completion = self._client.completions.create(
                model=self.config.model,
                prompt=prompt,
                max_tokens=self.max_new_tokens,
                temperature=0.0,
            )
            return completion.choices[0].text
        chat = self._client.chat.completions.create(
            model=self.config.model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=self.max_new_tokens,
            temperature=0.0,
        )
        return chat.choices[0].message.content


def user_message(where: str, probe: dict[str, Any]) -> str:
    """Return a probe's prompt without the marks of its template.

    The probe's field ``user`` says where the message is. Published probes have none: theirs are
    FILM's marks, and a fixed start of the answer after them is kept.

    Raises:
        InputError: ``user`` is no span of the prompt.
    """
    prompt: str = probe["prompt"]
    if "user" not in probe:
        before, after = FILM.user_marks
        asked, mark, answer_start = prompt.rpartition(after)
        return asked.removeprefix(before) + answer_start if mark else prompt
    match probe["user"]:
        case [int(start), int(end)] if 0 <= start <= end <= len(prompt):
            return prompt[start:end]
    raise InputError(
        f"{where}: field 'user' must be [start, end] in the prompt's {len(prompt)} characters, "
        f"found {probe['user']!r:.60}"
    )
