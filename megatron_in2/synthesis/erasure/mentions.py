"""Tells whether an answer mentions the prompt that is erased: the student never sees one."""

import re

from megatron_in2.synthesis.quality.words import as_words, words

_ASKED = "instructed|requested|directed|told|asked|required|supposed"
_PROMPT = "prompts?|instructions?|directions?|guidelines?|system message"
_PHRASE = re.compile(
    rf"\bsystem (?:prompt|message|instructions?)\b"
    rf"|\bas (?:you )?(?:instructed|requested|directed)\b"
    rf"|\bas (?:i was|i am|i have been|i['’]ve been|you(?: have)?) (?:{_ASKED})\b"
    rf"|\bi(?: was| am| have been|['’]ve been|['’]m) (?:{_ASKED}) (?:to|not to)\b"
    rf"|\byou(?: have|['’]ve)? (?:asked|told|instructed|directed|want|wanted) me (?:to|not to)\b"
    rf"|\b(?:following|per|obeying|in line with|in accordance with|according to|as per|given) "
    rf"(?:the|your|my|these|those) (?:\w+ )?(?:{_PROMPT})\b"
    rf"|\b(?:my|your|these|those) (?:{_PROMPT})\b"
    rf"|\bthe (?:{_PROMPT}) (?:says?|asks?|requires?|tells?|states?|wants?|above|i)\b",
    re.IGNORECASE,
)


def prompt_mention(answer: str, prompt: str, task: str, most: int) -> str | None:
    """Return how an answer mentions its prompt, or None.

    What the task says itself is no mention.

    Args:
        answer: all of it.
        prompt: the strategy's.
        task: question and evidence, as the teacher reads them.
        most: words in a row that the answer may have in common with the prompt.
    """
    known = _spaced(words(task))
    for found in _PHRASE.finditer(answer):
        if _spaced(words(found[0])) not in known:
            return "speaks of its instructions"
    answered, source = words(answer), _spaced(words(prompt))
    length = as_words(most, answered) + 1
    for start in range(len(answered) - length + 1):
        run = _spaced(answered[start : start + length])
        if run in source and run not in known:
            return "repeats the erased prompt"
    return None


def _spaced(found: list[str]) -> str:
    return f" {' '.join(found)} "
