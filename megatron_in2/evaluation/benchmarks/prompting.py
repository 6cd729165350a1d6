"""The template under which the task files write their prompts.

lm-evaluation-harness calls functions that a task file names, with a document and nothing else, so
the template reaches them beside the call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from megatron_in2.templates.base import InstructionTemplate
from megatron_in2.templates.film import FILM

_template: ContextVar[InstructionTemplate] = ContextVar("template", default=FILM)


@contextmanager
def prompting_with(template: InstructionTemplate) -> Iterator[None]:
    """Have prompts written with a template inside the block; FILM's is used outside of one."""
    token = _template.set(template)
    try:
        yield
    finally:
        _template.reset(token)


def current_template() -> InstructionTemplate:
    """Return the template that prompts are written with now."""
    return _template.get()
