"""Renders a base's Jinja chat template to text: the same text on every day and machine."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from megatron_in2.templates.base import ConversationError

# Llama 3's templates write a date into the system message: today's, or this day where they are not
# told one. Ids that change from day to day could not be trained on, so every template gets this.
DAY = date(2024, 7, 26)
DAY_TOLD = DAY.strftime("%d %b %Y")


def render(
    source: str,
    messages: Sequence[Mapping[str, str]],
    tokens: Mapping[str, str],
    awaits_answer: bool = False,
) -> str:
    """Render a conversation as transformers' ``apply_chat_template`` does, special tokens as text.

    Thinking is switched off where a template knows ``enable_thinking``: the answers that are
    trained on have none.

    Args:
        source: the Jinja chat template.
        messages: ``role`` and ``content`` of each.
        tokens: special tokens by role (``bos_token``).
        awaits_answer: add what precedes the next answer.

    Raises:
        ConversationError: the template is not readable, or refuses the conversation.
    """
    try:
        return _compiled(source).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=awaits_answer,
            enable_thinking=False,
            date_string=DAY_TOLD,
            tools=None,
            documents=None,
            **tokens,
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConversationError(f"the base's chat template fails: {reason:.200}") from error


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    """Compile with the settings and functions that transformers gives to chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = DAY.strftime
    return environment.from_string(source)


def _as_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
