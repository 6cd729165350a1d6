"""The chat template of an export: the Jinja text that writes what a template writes.

transformers renders a conversation to one text and tokenises it, while training encodes each
prompt and each answer by itself, with SentencePiece's dummy prefix. Both give the same ids where
the chat template writes one space before an answer, which becomes the answer's dummy prefix,
and where no piece of the vocabulary reaches across that space.
"""

from megatron_in2.templates.base import InstructionTemplate

_SPACES = (" ", "▁")  # SentencePiece writes the second for the first


def chat_template(template: InstructionTemplate) -> str:
    """Return the Jinja chat template that renders conversations as a template writes them.

    It takes an optional system message, then user and assistant messages in turn.
    """
    before_user, after_user = template.user_marks
    before_system, rest = template.chat_with_system.split("{system}")
    between, after_first = rest.split("{instruction}")
    user = f"{literal(before_user)} + turn['content'] + {literal(after_user)}"
    first = (
        f"{literal(before_system)} + system + {literal(between)} + turn['content']"
        f" + {literal(after_first)}"
    )
    answer = f"' ' + turn['content'] + {literal(template.answer_end)} + eos_token"
    return (
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
        "{% else %}{% set turns = messages %}{% endif %}"
        "{% for turn in turns %}"
        "{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
        "{{ raise_exception('after an optional system message, user and assistant must alternate')"
        " }}{% endif %}"
        "{% if turn['role'] == 'assistant' %}{{ " + answer + " }}"
        "{% elif loop.first and system is defined %}{{ " + first + " }}"
        "{% else %}{{ " + user + " }}{% endif %}"
        "{% endfor %}"
    )


def literal(text: str) -> str:
    """Return a text as a Jinja string, in ASCII.

    Jinja reads the escapes of Python; a raw line break in its source would be normalised.
    """
    return ascii(text)


def chat_template_problem(template: InstructionTemplate) -> str | None:
    """Say why no chat template gives the trained ids of a template's prompts, with the remedy.

    Returns:
        One line, or None where the chat template is exact.
    """
    for name in ("with_context", "without_context", "chat", "chat_with_system"):
        if getattr(template, name).endswith(_SPACES):
            return (
                f"{name!r} must not end in a space, which the tokenizer would join with the one "
                "before the answer: remove it (answers get a space of their own)"
            )
    before, after = template.user_marks
    for name in ("with_context", "without_context"):
        wording: str = getattr(template, name)
        if not (wording.startswith(before) and wording.endswith(after)):
            return (
                f"{name!r} must start with {before!r} and end with {after!r}, as 'chat' does: a "
                "chat template writes these marks around every user's message"
            )
    return None
