"""The published wording, byte by byte (github.com/microsoft/FILM)."""

from megatron_in2.templates import FILM


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
    before, after = FILM.around_context("Why {context}?")
    assert before.endswith("### Context:\n")
    assert before + "TEXT" + after == FILM.prompt("Why {context}?", "TEXT")


def test_chat_turn() -> None:
    assert FILM.turn("Hi {instruction}") == "[INST] Hi {instruction} [/INST]"
