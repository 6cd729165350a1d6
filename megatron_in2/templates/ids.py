"""The ids of a conversation's parts, without packing them."""

from collections.abc import Iterable

from megatron_in2.records import ContextPart, ControlPart, JoinedPart, Part, SamplePart
from megatron_in2.templates.base import Template
from megatron_in2.tokenizers.base import Tokenizer, control_id


def part_ids(parts: Iterable[SamplePart], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of parts, one after the other.

    The segments of a joined part are left out. Where a tokenizer's lines hold their newlines, the
    token at the end of the last segment may also hold what follows it, so that the whole is up to
    a few tokens shorter than its parts.
    """
    return [index for part in parts for index in _ids(part, tokenizer)]


def count_tokens(parts: Iterable[SamplePart], tokenizer: Tokenizer) -> int:
    """Return the number of ids of a conversation, as :func:`part_ids` gives them."""
    return len(part_ids(parts, tokenizer))


def end_id(template: Template, tokenizer: Tokenizer) -> int:
    """Return the id that ends an answer."""
    index = control_id(tokenizer, template.end_token)
    assert index is not None, "only a begin-of-sequence token may be absent"
    return index


def _ids(part: SamplePart, tokenizer: Tokenizer) -> list[int]:
    match part:
        case ControlPart():
            index = control_id(tokenizer, part.token)
            return [] if index is None else [index]
        case Part():
            return tokenizer.encode(part.text, part.follows)
        case ContextPart():
            return tokenizer.encode(part.before + part.context + part.after, part.follows)
        case JoinedPart():
            after = part.after if tokenizer.line_end else part.after.removeprefix("\n")
            return tokenizer.encode(part.before, part.follows) + tokenizer.encode(after, "text")
