"""Cuts documents into segments of whole lines (arXiv 2404.16811, NeurIPS version, Algorithm 1)."""

from megatron_in2.records import Document
from megatron_in2.tokenizers.base import Tokenizer


def split_into_segments(
    document: Document, tokenizer: Tokenizer, min_tokens: int
) -> list[tuple[str, list[int]]]:
    """Cut one document at newlines into segments of at least ``min_tokens`` tokens.

    Lines are added until their sum reaches ``min_tokens``; left-over lines join the last
    segment. A document shorter than that is one segment (the printed algorithm would pop an
    empty list). A line is never cut, so a segment may be much longer than ``min_tokens``.

    Returns:
        (text, ids) of each segment, ids as ``tokenizer.encode_lines`` gives them; the lines' ids
        are joined, not encoded again, where that is exact.
    """
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


def _segment(lines: list[str], ids: list[int], tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """Return a segment's text and ids; lines that cannot be encoded apart are encoded together."""
    text = "\n".join(lines)
    if not all(map(tokenizer.joins_behind_newline, lines[1:])):
        (ids,) = tokenizer.encode_lines([text])
    return text, ids
