"""Tells good questions from bad ones: each check returns the reason to drop a draft, or None."""

import re
from collections import Counter

from megatron_in2.synthesis.quality.words import as_words, words
from megatron_in2.synthesis.questions.config import FilterConfig
from megatron_in2.synthesis.questions.writer import Draft, Evidence, QuestionWriter

_SOURCES = "context|passage|text|article|document|pieces?|segments?|excerpts?|paragraphs?|snippets?"
_ADJECTIVES = "given |provided |above |following |preceding |supplied "
_CONTEXT_PHRASE = re.compile(
    rf"\b(?:based on|according to|as (?:stated|described|mentioned|noted) in|mentioned in|"
    rf"described in|discussed in|from|in) (?:the|this|these) (?:{_ADJECTIVES})?"
    rf"(?:{_SOURCES})\b(?! of)"
    rf"|\bthe (?:{_ADJECTIVES})(?:{_SOURCES}|information)\b"
    rf"|\b(?:the|this) (?:context|passage|text|article) "
    rf"(?:says?|states?|mentions?|describes?|explains?|tells?)\b"
    rf"|\bpiece \d+\b"
    # Chinese; German, French and Spanish.
    r"|(?:根据|按照|依据|基于|从)?(?:上述|上面的?|以上|给定的?|所给的?|提供的)(?:文本|文章|材料|内容|段落|上下文|信息)"
    r"|(?:根据|按照|从|在)(?:本|该|这段|这篇|此)?(?:文本|文章|上下文|文中|段落)|(?:文中|上文|本文)(?:提到|指出|所述|说)"
    r"|\b(?:laut|gemäß|in) (?:dem|diesem) (?:vorliegenden |obigen |gegebenen )?"
    r"(?:Text|Kontext|Artikel|Abschnitt)\b"
    r"|\b(?:selon|d['’]après|dans) (?:le|ce|cet|l['’]) ?(?:texte|contexte|article|passage)\b"
    r"|\b(?:según|en) (?:el|este) (?:texto|contexto|artículo|pasaje)\b",
    re.IGNORECASE,
)
# A phrase that ASCII text can hold has one of these in it. To look for them first costs a
# fiftieth of the expression, which tries all its alternatives at every character.
_IN_EVERY_PHRASE = (
    *("text", "passage", "article", "document", "piece", "segment", "excerpt", "paragraph"),
    *("snippet", "information", "artikel", "abschnitt", "pasaje"),
)


def first_problem(draft: Draft, evidence: Evidence, config: FilterConfig) -> str | None:
    """Return why a draft is dropped by the checks that cost nothing, or None."""
    if draft.problem is not None:
        return draft.problem
    if config.context_phrases and speaks_of_context(draft):
        return "speaks of the context"
    most = config.max_copied_words
    if most and copies_more(draft.answer, evidence.texts, most):
        return "answer copied from the evidence"
    if config.citations and evidence.has_pieces and not cites_rightly(draft, evidence):
        return "evidence lacks what the answer cites"
    return None


async def first_paid_problem(
    draft: Draft, evidence: Evidence, config: FilterConfig, writer: QuestionWriter
) -> str | None:
    """Return why a draft is dropped by the checks that ask the writer again, or None."""
    if config.closed_book:
        guess = await writer.answer_from_memory(draft.question)
        if guess is not None and await _is_right(draft, guess, config, writer):
            return "answerable without the evidence"
    if config.verify and not await writer.supports(evidence, draft):
        return "evidence does not support the answer"
    return None


async def _is_right(draft: Draft, guess: str, config: FilterConfig, writer: QuestionWriter) -> bool:
    if config.closed_book_judge == "f1":
        return token_f1(guess, draft.answer) >= config.closed_book_f1
    return await writer.is_right(draft, guess)


def speaks_of_context(draft: Draft) -> bool:
    """Whether question or answer speaks of "the context", "the text" and the like."""
    texts = (draft.question, draft.answer)
    lowered = "\n".join(texts).lower()
    if lowered.isascii() and not any(map(lowered.__contains__, _IN_EVERY_PHRASE)):
        return False
    return any(_CONTEXT_PHRASE.search(text) for text in texts)


def copies_more(answer: str, texts: tuple[str, ...], most: int) -> bool:
    """Whether a run of more than ``most`` words of the answer occurs in one of the texts."""
    answered = words(answer)
    most = as_words(most, answered)
    if len(answered) <= most:
        return False
    texts = tuple(text for text in texts if _may_hold_a_run(text.lower(), answered, most + 1))
    sources = [f" {' '.join(words(text))} " for text in texts]
    runs = (answered[start : start + most + 1] for start in range(len(answered) - most))
    return any(f" {' '.join(run)} " in source for run in runs for source in sources)


def _may_hold_a_run(lowered: str, answered: list[str], length: int) -> bool:
    """Whether a text may hold a run of so many words; to find that it does not costs little.

    Wherever a run begins, it holds one of the blocks of half its length, with all their words.
    """
    block = (length + 1) // 2
    starts = range(0, len(answered) - block + 1, block)
    return any(all(word in lowered for word in answered[at : at + block]) for at in starts)


def cites_rightly(draft: Draft, evidence: Evidence) -> bool:
    """Whether the quotes occur in the pieces they name, and name at least two different ones."""
    for citation in draft.citations:
        if not 0 <= citation.piece < len(evidence.texts) or not citation.quote.strip():
            return False
        if _folded(citation.quote) not in _folded(evidence.texts[citation.piece]):
            return False
    return len({citation.piece for citation in draft.citations}) >= 2


def question_key(question: str) -> str:
    """Return what two questions share that differ in case, space and punctuation only."""
    return " ".join(words(question))


def token_f1(first: str, second: str) -> float:
    """Return the F1 of two texts as bags of words."""
    one, other = Counter(words(first)), Counter(words(second))
    shared = (one & other).total()
    return 2 * shared / (one.total() + other.total()) if shared else 0.0


def _folded(text: str) -> str:
    return " ".join(text.replace("“", '"').replace("”", '"').replace("’", "'").lower().split())
