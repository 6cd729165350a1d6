"""Turns prompts into requests: the same prompt and settings give the same request."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.journal.file import request_key
from megatron_in2.synthesis.llm.prompts import Prompts, fill
from megatron_in2.synthesis.llm.transport import Request
from megatron_in2.tokenizers.base import Tokenizer

_CHAT_TOKENS = 8  # what the chat format adds to a prompt
_STRING = {"type": "string"}
_PAIR = {"question": _STRING, "answer": _STRING}
_QUOTE = {"piece": {"type": "integer"}, "quote": _STRING}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


_QUOTED_PAIR = _object({**_PAIR, "quotes": {"type": "array", "items": _object(_QUOTE)}})
_SCHEMAS = {
    "fine_grained": _object(_PAIR),
    "integration": _object(_PAIR),
    "multi_document": _object(_PAIR),
    "reword": _object({"question": _STRING}),
    "judge": _object({"correct": {"type": "boolean"}}),
    "verify": _object({"supported": {"type": "boolean"}}),
}


class RequestMaker:
    """Makes requests to one model.

    Args:
        config: the openai section.
        prompts: the templates.
        tokenizer: counts prompt tokens; a provider's own counts differ by some percent.
        earlier: the templates of version 1, where the journal holds answers to them.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        prompts: Prompts,
        tokenizer: Tokenizer,
        earlier: Prompts | None = None,
    ) -> None:
        self.prompts = prompts
        self._config = config
        self._tokenizer = tokenizer
        self._earlier = earlier
        self._form_of = cache(self._form)

    def make(self, name: str, **values: str) -> Request:
        """Return the request that a template, filled in, makes.

        Args:
            name: of the template.
            values: of its fields.
        """
        template = self.prompts.text(name)
        prompt = fill(template, **values)
        payload = self._payload(prompt)
        key = request_key(payload)
        if self._config.structured_output and self.prompts.asks_for_json(name):
            payload["response_format"] = self._form_of(name)
        earlier: tuple[bytes, ...] = ()
        if self._earlier is not None and self._earlier.text(name) != template:
            earlier = (request_key(self._payload(fill(self._earlier.text(name), **values))),)
        count = partial(self.count_tokens, prompt)
        return Request(key, payload, count, self._config.max_answer_tokens, earlier)

    def asks_as(self) -> tuple[object, ...]:
        """Return what tells the requests of two makers for the same evidence apart."""
        return (self.prompts, self._earlier, self._payload(""), self._config.structured_output)

    def count_tokens(self, prompt: str) -> int:
        """Estimate a prompt's tokens, the chat format's few included."""
        return len(self._tokenizer.encode(prompt)) + _CHAT_TOKENS

    def _payload(self, prompt: str) -> dict[str, Any]:
        config = self._config
        payload: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": prompt}],
            config.limit_parameter: config.max_answer_tokens,
        }
        if config.temperature is not None:
            payload["temperature"] = config.temperature
        if config.reasoning_effort is not None:
            payload["reasoning_effort"] = config.reasoning_effort
        return {**payload, **config.extra_body}

    def _form(self, name: str) -> Mapping[str, Any]:
        quoted = _SCHEMAS[name] == _object(_PAIR) and self.prompts.asks_for_quotes(name)
        schema = _QUOTED_PAIR if quoted else _SCHEMAS[name]
        form = {"name": name, "strict": True, "schema": schema}
        return {"type": "json_schema", "json_schema": form}
