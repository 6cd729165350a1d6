"""The template under which the task files write their prompts, and the window that they fit in.

lm-evaluation-harness calls functions that a task file names, with a document and nothing else, so
both reach them beside the call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from megatron_in2.evaluation.benchmarks.truncation import Window
from megatron_in2.templates.base import Template
from megatron_in2.templates.film import FILM


@dataclass(frozen=True)
class Prompting:
    """How prompts are written; without a window they are as long as they are."""

    template: Template = FILM
    window: Window | None = None


_DEFAULT = Prompting()
_current: ContextVar[Prompting] = ContextVar("prompting", default=_DEFAULT)


@contextmanager
def prompting_with(template: Template, window: Window | None = None) -> Iterator[None]:
    """Have prompts written with a template inside the block; FILM's is used outside of one."""
    token = _current.set(Prompting(template, window))
    try:
        yield
    finally:
        _current.reset(token)


def write_prompt(instruction: str, context: str | None = None) -> str:
    """Return the prompt for an instruction, with or without a context, as text.

    A message that is too long for the window loses its middle before the template is applied.
    """
    prompting = _current.get()
    template, window = prompting.template, prompting.window
    message = template.wording.message(instruction, context)
    if window is not None:
        message = window.shortened(message, template.prompt_text)
    return template.prompt_text(message)


def write_within_window(context: str, write: Callable[[str], str]) -> str:
    """Return the prompt that ``write`` makes of a context, which loses its end in a window."""
    window = _current.get().window
    return write(context if window is None else window.without_end(context, write))
