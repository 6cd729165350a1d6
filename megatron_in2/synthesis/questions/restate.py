"""Answers that begin with their evidence: quoted first, then the answer.

Position-agnostic training (arXiv 2311.09198) has the model repeat the question, name the document
and then answer. Here the sentences themselves are quoted, since segments have no numbers.
"""

from collections.abc import Sequence
from dataclasses import replace

from megatron_in2.synthesis.quality.sentences import content_words, sentences
from megatron_in2.synthesis.questions.writer import Draft

MOST_SENTENCES = 2  # of one text, where the writer gave no quotes
_QUESTION_WEIGHT = 0.5  # a content word of the question, against one of the answer


def restated(draft: Draft, texts: Sequence[str]) -> Draft:
    """Return the draft with its evidence before the answer, as Markdown quotes.

    Args:
        draft: with the writer's quotes, or without.
        texts: the evidence's. Of each, the sentences that say most of what the answer says are
            taken if there are no quotes.
    """
    if draft.citations:
        quotes = [" ".join(citation.quote.split()) for citation in draft.citations]
    else:
        quotes = [quote for text in texts for quote in supporting_sentences(draft, text)]
    if not quotes:
        return draft
    quoted = "\n".join(f"> {quote}" for quote in dict.fromkeys(quotes))
    return replace(draft, answer=f"{quoted}\n\n{draft.answer}")


def supporting_sentences(draft: Draft, text: str) -> list[str]:
    """Return the sentences of a text that answer a question, in the text's order.

    The best one by the answer's and the question's content words; then another one if it has
    words of the answer that the best one lacks.
    """
    answer, question = set(content_words(draft.answer)), set(content_words(draft.question))
    found = [(sentence, set(content_words(sentence))) for sentence in sentences(text)]
    chosen: list[int] = []
    for _ in range(MOST_SENTENCES):
        scores = [
            len(held & answer) + _QUESTION_WEIGHT * len(held & question) if held & answer else 0.0
            for _, held in found
        ]
        best = max(range(len(found)), key=scores.__getitem__, default=None)
        if best is None or not scores[best] or best in chosen:
            break
        chosen.append(best)
        answer -= found[best][1]
    return [found[place][0] for place in sorted(chosen)]
