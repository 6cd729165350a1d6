"""The template under which the task files write their prompts.

lm-evaluation-harness calls functions that a task file names, with a document and nothing else, so
the template reaches them beside the call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from megatron_in2.templates.base import Template
from megatron_in2.templates.film import FILM

_template: ContextVar[Template] = ContextVar("template", default=FILM)


@contextmanager
def prompting_with(template: Template) -> Iterator[None]:
    """Have prompts written with a template inside the block; FILM's is used outside of one."""
    token = _template.set(template)
    try:
        yield
    finally:
        _template.reset(token)


def write_prompt(instruction: str, context: str | None = None) -> str:
    """Return the prompt for an instruction, with or without a context, as text."""
    template = _template.get()
    return template.prompt_text(template.wording.message(instruction, context))
