"""Reads what the model wrote: a question with its answer, or a verdict.

JSON may have other text around it. Plain text is read in the format of the IN2 paper (the
question, then ``### Answer ###:`` and the answer) and its usual variations.
"""

import json
import re
from typing import Any

from megatron_in2.synthesis.questions.writer import Citation, Draft

MAX_CHARACTERS = 40_000  # a longer reply is no question and answer
_DECODER = json.JSONDecoder(strict=False)  # models break lines inside strings
SHOWN_CHARACTERS = 500  # of a reply that cannot be used
_DRESS = r"[ \t#*>\-]{0,16}"  # what models put around a label


def _label(words: str, short: str) -> re.Pattern[str]:
    """Match ``Answer:``, ``**Answer:**``, ``A 1:`` at a line's start, ``### Answer`` anywhere."""
    return re.compile(
        rf"(?:^|(?<=\n))(?:\d{{1,2}}[.)])?{_DRESS}(?:{words}|{short})[ \t]*\d{{0,3}}{_DRESS}[:：]"
        rf"(?:\*{{1,3}}(?=\s))?"
        rf"|(?:^|(?<=\n))\*{{1,3}}(?:{words})\*{{1,3}}(?=\s)"
        rf"|\#{{2,6}}[ \t]*(?:{words})[ \t]*(?:\#{{1,6}}[ \t]*[:：]?|[:：]|(?=\n))",
        re.IGNORECASE,
    )


_QUESTION_LABEL = _label("question|问题", "q|问")
_ANSWER_LABEL = _label("answer|答案|回答", "a|答")
_BEHIND_ANSWER = re.compile(
    rf"\n{_DRESS}(?:quotes?|evidence|explanation|notes?|引文)[ \t]*{_DRESS}(?:[:：]|\n)",
    re.IGNORECASE,
)
_QUOTE = re.compile(r"\[?(\d{1,6})\]?[ \t]{0,4}[:.\-]?[ \t]{0,4}[\"“]([^\"”\n]+)[\"”]")
# No text holds them: half a surrogate pair breaks every encoder, and a NUL some tokenizers.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def read_draft(text: str) -> Draft:
    """Read question and answer; whatever the text is, a draft comes back, with its problem."""
    if len(text) > MAX_CHARACTERS:
        return _bad("reply too long", text)
    value = read_object(text)
    if value is None:
        return _labelled_draft(text)
    question, answer = value.get("question"), value.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        return _bad("malformed reply", text)
    quotes = value.get("quotes")
    citations = tuple(
        Citation(quote["piece"] - 1, quote["quote"])
        for quote in (quotes if isinstance(quotes, list) else [])
        if isinstance(quote, dict)
        and type(quote.get("piece")) is int
        and isinstance(quote.get("quote"), str)
    )
    return _draft(question, answer, citations)


def read_question(text: str) -> Draft:
    """Read a reworded question, as JSON or as plain text; its draft has no answer."""
    value = read_object(text) if len(text) <= MAX_CHARACTERS else {}
    question = text if value is None else value.get("question")
    if not isinstance(question, str):
        return _bad("malformed reply", text)
    if (label := _QUESTION_LABEL.match(question)) is not None:
        question = question[label.end() :]
    if not (question := _undressed(question)):
        return Draft(problem="empty question or answer")
    if not is_readable(question):
        return Draft(problem="unreadable characters")
    return Draft(question)


def is_readable(text: str) -> bool:
    """Whether a text has no character that no text should hold."""
    return _UNREADABLE.search(text) is None


def read_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a reply, ignoring text around it, or None."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0:
        return None
    try:
        value = _DECODER.decode(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _labelled_draft(text: str) -> Draft:
    """Read plain text: the answer follows a label, the question its own label or the start."""
    answer_label = _ANSWER_LABEL.search(text)
    if answer_label is None:
        return _bad("malformed reply", text)
    question, answer = text[: answer_label.start()], text[answer_label.end() :]
    if (question_label := _QUESTION_LABEL.search(question)) is not None:
        question = question[question_label.end() :]
    rest = ""
    if (behind := _BEHIND_ANSWER.search(answer)) is not None:
        answer, rest = answer[: behind.start()], answer[behind.end() :]
    citations = tuple(Citation(int(piece) - 1, quote) for piece, quote in _QUOTE.findall(rest))
    return _draft(_undressed(question), _undressed(answer), citations)


def _bad(problem: str, reply: str) -> Draft:
    return Draft(problem=problem, reply=reply[:SHOWN_CHARACTERS])


def _undressed(text: str) -> str:
    """Take the stars of bold print away, and a stray heading mark at the end."""
    text = text.strip().rstrip("#").strip()
    while len(text) > 2 and text[0] == text[-1] == "*":
        text = text[1:-1].strip()
    return text


def _draft(question: str, answer: str, citations: tuple[Citation, ...]) -> Draft:
    if not question.strip() or not answer.strip():
        return Draft(problem="empty question or answer")
    if not (is_readable(question) and is_readable(answer)):
        return Draft(problem="unreadable characters")
    return Draft(question.strip(), answer.strip(), citations)
