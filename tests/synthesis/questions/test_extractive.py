"""The offline writer asks real questions: every answer occurs in the evidence."""

from megatron_in2.synthesis.questions.extractive import ExtractiveWriter

TEXT = (
    "The garbage collector frees objects that are no longer reachable from the program. "
    "It can be disabled when the programmer is sure that no reference cycles are created. "
    "Short one."
)


def test_answers_stand_in_the_text(texts: list[str]) -> None:
    writer = ExtractiveWriter(seed=1)
    asked = 0
    for number, text in enumerate(texts[:300]):
        qa = writer.fine_grained(text, str(number))
        if qa is not None:
            asked += 1
            assert qa.answer in " ".join(text.split())
            assert qa.answer.strip()
    assert asked > 150


def test_the_blanked_word_is_gone_from_the_question() -> None:
    writer = ExtractiveWriter(seed=1)
    pairs = [writer.fine_grained(TEXT, str(key)) for key in range(30)]
    blanked = [pair for pair in pairs if pair and "____" in pair.question]
    assert blanked
    assert all(pair.answer not in pair.question for pair in blanked)


def test_integration_needs_two_texts() -> None:
    first = "The scheduler assigns every runnable coroutine to one of the worker threads."
    second = "A blocked coroutine never occupies one of the worker threads while it waits."
    qa = ExtractiveWriter(seed=1).integration([first, second], "k")
    assert qa is not None
    assert first in qa.answer
    assert second in qa.answer
    assert ExtractiveWriter(seed=1).integration([first, first], "k") is None
    assert ExtractiveWriter(seed=1).integration([first], "k") is None


def test_the_same_key_gives_the_same_question() -> None:
    writers = [ExtractiveWriter(seed=3), ExtractiveWriter(seed=3)]
    assert writers[0].fine_grained(TEXT, "k") == writers[1].fine_grained(TEXT, "k")


def test_nothing_to_ask() -> None:
    assert ExtractiveWriter(seed=1).fine_grained("x = 1\ny = 2", "k") is None
