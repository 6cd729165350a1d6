"""The generated chat template writes what the template writes, character for character."""

from dataclasses import replace
from functools import cache

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_in2.templates.chat_template import literal
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.templates.text import InstructionTemplate, chat_template_problem
from megatron_in2.tokenizers.base import Tokenizer

ODD = InstructionTemplate(
    name="odd",
    with_context="{% raw %}'\"\\\r\n### {context}\n{{ x }}\n{context}\n{instruction} \U0001f642é]",
    without_context="x",
    chat="\tü {instruction}\r\n",
    chat_with_system="\\n {system} {# no #} {instruction}\r\n",
    answer_end="\n'end'",
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@cache
def compiled(template: InstructionTemplate, tokenizer: Tokenizer) -> jinja2.Template:
    """Compile as transformers does: its environment trims blocks."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.chat_template(tokenizer))


def rendered(
    template: InstructionTemplate, tokenizer: Tokenizer, messages: list[tuple[str, str]]
) -> str:
    values = [{"role": role, "content": content} for role, content in messages]
    return compiled(template, tokenizer).render(messages=values, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("template", [FILM, CHATML, ODD], ids=lambda each: each.name)
@settings(deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), system=st.none() | TEXTS)
@example(texts=["{{ user }}", "{% if %}", "'"], system="{system} {instruction}")
def test_any_conversation(
    small_tokenizer: Tokenizer, template: InstructionTemplate, texts: list[str], system: str | None
) -> None:
    messages = [(["user", "assistant"][i % 2], text) for i, text in enumerate(texts)]
    expected = "<s>"
    for index, (role, text) in enumerate(messages):
        if role == "user":
            expected += template.turn(text, system if index == 0 else None)
        else:
            expected += f" {text}{template.answer_end}</s>"
    head = [] if system is None else [("system", system)]
    assert rendered(template, small_tokenizer, head + messages) == expected


@settings(deadline=None)
@given(text=TEXTS)
def test_a_literal_is_its_text(text: str) -> None:
    assert jinja2.Environment().from_string("{{ " + literal(text) + " }}").render() == text


def test_what_no_chat_template_can_write_is_named() -> None:
    assert chat_template_problem(FILM) is None
    assert chat_template_problem(CHATML) is None
    for name in ("with_context", "without_context", "chat", "chat_with_system"):
        for space in (" ", "▁"):
            spaced = replace(FILM, **{name: getattr(FILM, name) + space})
            assert f"{name!r} must not end in a space" in str(chat_template_problem(spaced))
    alone = replace(FILM, without_context="{instruction} [/INST]")
    assert "'without_context' must start with '[INST] ' and end with" in str(
        chat_template_problem(alone)
    )
    alone = replace(FILM, with_context="[INST] {context}\n{instruction}")
    assert "'with_context' must start" in str(chat_template_problem(alone))


@settings(deadline=None)
@given(context=st.none() | TEXTS, instruction=TEXTS)
def test_the_users_message_is_the_prompt_without_marks(
    context: str | None, instruction: str
) -> None:
    for template in (FILM, CHATML):
        prompt = template.prompt(instruction, context)
        start, end = template.user_span(prompt)
        assert template.turn(prompt[start:end]) == prompt
