"""Questions whose words do not lead to their evidence: reworded until they share none with it."""

from dataclasses import replace

from megatron_in2.records import id_hash
from megatron_in2.synthesis.quality.overlap import shared_words
from megatron_in2.synthesis.questions.config import FilterConfig
from megatron_in2.synthesis.questions.filters import first_problem
from megatron_in2.synthesis.questions.writer import Draft, Evidence, QuestionWriter

REASON = "question shares words with its evidence"


def is_reworded(identity: str, share: float) -> bool:
    """Whether the question of this id is among the share to reword: the same in every run."""
    return id_hash(f"reworded/{identity}") % 1_000_000 < share * 1_000_000


async def reworded(
    draft: Draft, evidence: Evidence, tries: int, config: FilterConfig, writer: QuestionWriter
) -> tuple[Draft, str | None]:
    """Have a question reworded until it shares no content word with its evidence but names.

    Args:
        draft: a question that passed the free checks.
        evidence: its evidence.
        tries: rewordings at most.
        config: the filters, which the new question must pass too.
        writer: who rewords.

    Returns:
        The draft with the last question, and a reason to drop it or None.
    """
    for left in range(tries, -1, -1):
        shared = shared_words(draft.question, evidence.texts)
        if not shared:
            return draft, first_problem(draft, evidence, config)
        if not left:
            break
        new = await writer.reword(evidence, draft, shared)
        if new.problem is not None:
            return new, new.problem
        draft = replace(draft, question=new.question)
    return draft, REASON
