"""Cuts documents into segments of whole lines (arXiv 2404.16811, NeurIPS version, Algorithm 1)."""

import re

from megatron_in2.records import Document
from megatron_in2.tokenizers.base import Tokenizer

# Where a segment that is too long may be cut, best first: after a line, a sentence, a word.
_CUTS = (
    re.compile(r"\n+"),
    re.compile(r"[.!?…؟۔।॥။][\"'”’»)\]]*\s+|[。！？；][”’」』）]*\s*"),
    re.compile(r"\s+"),
)

Segment = tuple[str, list[int]]


def split_into_segments(
    document: Document, tokenizer: Tokenizer, min_tokens: int, max_tokens: int = 0
) -> list[Segment]:
    """Cut one document at newlines into segments of at least ``min_tokens`` tokens.

    Lines are added until their sum reaches ``min_tokens``; left-over lines join the last
    segment. A document shorter than that is one segment (the printed algorithm would pop an
    empty list).

    Args:
        document: the document.
        tokenizer: gives the ids.
        min_tokens: shortest segment, unless the document is shorter.
        max_tokens: a longer segment is cut near its middle, again and again: behind a line, a
            sentence or a word, or between characters if it has none of them there. Each part has
            about a quarter of this or more. 0 never cuts a line, as in the paper.

    Returns:
        (text, ids) of each segment, ids as ``tokenizer.encode_lines`` gives them; the lines' ids
        are joined, not encoded again, where that is exact.
    """
    segments = _grouped_lines(document, tokenizer, min_tokens)
    if not max_tokens:
        return segments
    return [part for segment in segments for part in _cut(segment, tokenizer, max_tokens)]


def _grouped_lines(document: Document, tokenizer: Tokenizer, min_tokens: int) -> list[Segment]:
    lines = [line for line in document.text.split("\n") if line.strip()]
    groups: list[tuple[list[str], list[int]]] = []
    pending: tuple[list[str], list[int]] = ([], [])
    for line, ids in zip(lines, tokenizer.encode_lines(lines), strict=True):
        if pending[0]:
            pending[1].extend(tokenizer.line_end)
        pending[0].append(line)
        pending[1].extend(ids)
        if len(pending[1]) >= min_tokens:
            groups.append(pending)
            pending = ([], [])
    if pending[0]:
        if groups:
            last_lines, last_ids = groups[-1]
            last_lines.extend(pending[0])
            last_ids.extend([*tokenizer.line_end, *pending[1]])
        else:
            groups.append(pending)
    return [_segment(group_lines, ids, tokenizer) for group_lines, ids in groups]


def _segment(lines: list[str], ids: list[int], tokenizer: Tokenizer) -> Segment:
    """Return a segment's text and ids; lines that cannot be encoded apart are encoded together."""
    text = "\n".join(lines)
    if not all(map(tokenizer.joins_behind_newline, lines[1:])):
        (ids,) = tokenizer.encode_lines([text])
    return text, ids


def _cut(segment: Segment, tokenizer: Tokenizer, max_tokens: int) -> list[Segment]:
    text, ids = segment
    if len(ids) <= max_tokens or len(text) < 2:
        return [segment]
    halves = [half for half in _halves(text) if half]
    encoded = zip(halves, tokenizer.encode_lines(halves), strict=True)
    return [part for half in encoded for part in _cut(half, tokenizer, max_tokens)]


def _halves(text: str) -> tuple[str, str]:
    """Divide a text at the best place in its middle half; white space at the cut is dropped.

    Behind a newline only the newline is: what follows may be the indentation of code.
    """
    middle = len(text) // 2
    cut = middle
    for pattern in _CUTS:
        found = pattern.finditer(text, len(text) // 4, 3 * len(text) // 4)
        if ends := [match.end() for match in found]:
            cut = min(ends, key=lambda end: abs(end - middle))
            if pattern is _CUTS[0]:
                return text[:cut].rstrip("\n"), text[cut:]
            break
    return text[:cut].rstrip(), text[cut:].lstrip()
