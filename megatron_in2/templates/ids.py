"""The ids of a conversation's parts, without packing them."""

from collections.abc import Iterable
from functools import lru_cache

from megatron_in2.records import ContextPart, ControlPart, Follows, JoinedPart, Part, SamplePart
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
    """Return the number of ids of one conversation, as :func:`part_ids` gives them."""
    return len(part_ids(parts, tokenizer))


class TokenCounter:
    """Counts the ids of many conversations, as :func:`part_ids` gives them.

    Args:
        tokenizer: whose words, once encoded, are looked up.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encoder = tokenizer.text_encoder()
        # What precedes a context is the same text in every sample of a template.
        self._repeated = lru_cache(maxsize=256)(self._text)

    def count(self, parts: Iterable[SamplePart]) -> int:
        """Return the number of ids of one conversation."""
        return sum(map(self._part, parts))

    def _part(self, part: SamplePart) -> int:
        match part:
            case ControlPart():
                return int(control_id(self._tokenizer, part.token) is not None)
            case Part():
                return self._text(part.text, part.follows)
            case ContextPart():
                return self._text(part.before + part.context + part.after, part.follows)
            case JoinedPart():
                after = _after(part, self._tokenizer)
                return self._repeated(part.before, part.follows) + self._text(after, "text")

    def _text(self, text: str, follows: Follows) -> int:
        return len(self._encoder.encode(text, follows)) // self._encoder.dtype.itemsize


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
            before = tokenizer.encode(part.before, part.follows)
            return before + tokenizer.encode(_after(part, tokenizer), "text")


def _after(part: JoinedPart, tokenizer: Tokenizer) -> str:
    """Return what follows the segments: lines that hold their newlines have the first one."""
    return part.after if tokenizer.line_end else part.after.removeprefix("\n")
