"""Counts the tokens of a conversation's parts without packing them."""

from collections.abc import Iterable

from megatron_in2.records import ContextPart, ControlPart, JoinedPart, Part, SamplePart
from megatron_in2.tokenizers.base import Tokenizer, control_id


def count_tokens(parts: Iterable[SamplePart], tokenizer: Tokenizer) -> int:
    """Return the number of ids of a conversation.

    The segments of a joined part are not counted. Where a tokenizer's lines hold their newlines,
    the token at the end of the last segment may also hold what follows it, so that the whole is
    up to a few tokens shorter than its parts.
    """
    return sum(_count(part, tokenizer) for part in parts)


def _count(part: SamplePart, tokenizer: Tokenizer) -> int:
    match part:
        case ControlPart():
            return control_id(tokenizer, part.token) is not None
        case Part():
            return len(tokenizer.encode(part.text, part.follows))
        case ContextPart():
            return len(tokenizer.encode(part.before + part.context + part.after, part.follows))
        case JoinedPart():
            after = part.after if tokenizer.line_end else part.after.removeprefix("\n")
            before = tokenizer.encode(part.before, part.follows)
            return len(before) + len(tokenizer.encode(after, "text"))
