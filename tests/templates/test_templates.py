"""The published wording, byte by byte (github.com/microsoft/FILM)."""

import json
import re
from pathlib import Path

import pytest
import yaml

from megatron_in2.errors import InputError
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.templates.load import TEMPLATE_FILE, load_template, read_template_beside


def test_prompt_with_context() -> None:
    assert FILM.prompt("What?", "Some {instruction} text") == (
        "[INST] Below is a context and an instruction. Based on the information provided in the "
        "context, write a response for the instruction.\n\n### Context:\nSome {instruction} text"
        "\n\n### Instruction:\nWhat? [/INST]"
    )


def test_prompt_without_context() -> None:
    assert FILM.prompt("Say {context}", None) == (
        "[INST] Below is a user instruction. Write a response for the instruction.\n\n"
        "### Instruction:\nSay {context} [/INST]"
    )


def test_around_context_is_the_prompt_cut_open() -> None:
    before, after = FILM.wording.around_context("Why {context}?")
    assert before.endswith("### Context:\n")
    message = before + "TEXT" + after
    assert message == FILM.wording.message("Why {context}?", "TEXT")
    assert FILM.prompt_text(message) == FILM.prompt("Why {context}?", "TEXT")


def test_chat_turn() -> None:
    assert FILM.turn("Hi {instruction}") == "[INST] Hi {instruction} [/INST]"


def test_a_system_message_comes_before_the_first_turn() -> None:
    assert FILM.turn("Hi {system}", "Be brief.") == "[INST] Be brief.\n\nHi {system} [/INST]"
    assert CHATML.turn("Hi", "Be brief.") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(CHATML.values()))
    assert load_template(str(path)) == CHATML
    assert load_template("film") is FILM


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"chat": "Q {instruction} A: "}, "'chat' must not end in a space"),
        ({"without_context": "Q {instruction}"}, "'without_context' must start with '[INST] '"),
        ({"chat": "no placeholder"}, "'chat' must hold {instruction}"),
        ({"with_context": "{instruction}\n{context}\n"}, "{context} before {instruction}"),
        ({"with_context": "x {context}\n{instruction}"}, "lines of its own"),
        ({"chat_with_system": "{system}{system}{instruction}"}, "each once"),
        ({"without_context": 3}, "must be a text"),
        ({"markers": "x"}, "'markers'"),
        ({"answer_end": 1}, "'answer_end'"),
        ({"wording": "x"}, "the fields are"),
    ],
)
def test_templates_that_cannot_be_used(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**FILM.values(), **change}))
    with pytest.raises(InputError, match=re.escape(complaint)):
        load_template(str(path))


@pytest.mark.parametrize("content", ["a: [", "- 1", "text"])
def test_files_that_are_no_template(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="template"):
        load_template(str(path))
    with pytest.raises(InputError, match="use base, film, chatml"):
        load_template("absent")
    with pytest.raises(InputError, match="json and no chat template: name the template"):
        load_template(str(tmp_path))


def test_the_template_beside_a_model(tmp_path: Path) -> None:
    assert read_template_beside(tmp_path) is None
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(CHATML.values()))
    assert read_template_beside(tmp_path) == load_template(str(tmp_path)) == CHATML
    (tmp_path / TEMPLATE_FILE).write_text('{"name": "x"}')
    with pytest.raises(InputError, match="is not a template"):
        read_template_beside(tmp_path)
