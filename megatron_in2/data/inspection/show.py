"""Rows of a packed dataset as readable text, with marks around what is trained on."""

import html
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron_in2.data.inspection.text import LINES, escaped
from megatron_in2.data.packed.manifest import Manifest
from megatron_in2.files import atomic_file
from megatron_in2.tokenizers.base import Tokenizer

if TYPE_CHECKING:  # it brings torch, which the summary does not need
    from megatron_in2.data.packed.dataset import Row

GREEN, PLAIN = "\033[1;32m", "\033[0m"
SHOWN = 600  # characters of an untrained text that are shown, unless all are asked for


@dataclass(frozen=True)
class SampleView:
    """One sample of a row: its record, and its text in runs that are trained on or not."""

    id_hash: str
    kind: str
    start: int
    length: int
    padding: int
    learnt_tokens: int
    evidence_position: float | None
    runs: list[tuple[str, bool]]


def view_row(row: "Row", manifest: Manifest, tokenizer: Tokenizer) -> list[SampleView]:
    """Return a row's samples, in order; its filling is left out."""
    views = []
    starts = np.cumsum([0, *row.lengths[:-1]]).tolist()
    for start, padded, record in zip(starts, row.lengths, row.records, strict=True):
        size = int(record["length"])
        if not size:
            continue
        position = float(record["evidence_position"])
        views.append(
            SampleView(
                id_hash=f"{int(record['id_hash']):016x}",
                kind=manifest.kinds[int(record["kind"])],
                start=start,
                length=size,
                padding=padded - size,
                learnt_tokens=int(record["learnt_tokens"]),
                evidence_position=None if np.isnan(position) else position,
                runs=list(_runs(row, start, start + size, tokenizer)),
            )
        )
    return views


def _runs(row: "Row", start: int, end: int, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """Yield (text, trained) of the runs of one sample; control ids show as their pieces."""
    tokens, mask = row.tokens[start:end], row.loss_mask[start:end]
    control = np.isin(tokens, list(tokenizer.control_ids.values()))
    changes = (np.diff(mask.astype(np.int8)) != 0) | control[1:] | control[:-1]
    borders = [0, *(np.flatnonzero(changes) + 1).tolist(), end - start]
    for first, last in itertools.pairwise(borders):
        run = tokens[first:last]
        text = tokenizer.piece(run[0]) if control[first] else tokenizer.decode(run)
        yield text, bool(mask[first])


def as_text(index: int, views: list[SampleView], colour: bool, full: bool) -> str:
    """Render a row for a terminal: trained text in green, or between ⟦ and ⟧; all is escaped."""
    before, after = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    lines = [f"row {index}: {len(views)} samples"]
    for view in views:
        lines.append(f"── {_headline(view)}")
        lines.append(
            "".join(
                f"{before}{escaped(text, LINES)}{after}"
                if trained
                else escaped(_shortened(text, full), LINES)
                for text, trained in view.runs
            )
        )
    return "\n".join(lines)


def as_values(index: int, views: list[SampleView]) -> dict[str, Any]:
    """Return a row as plain values, for programs."""
    return {"row": index, "samples": [asdict(view) for view in views]}


def write_page(path: Path, title: str, rows: dict[int, list[SampleView]], full: bool) -> None:
    """Write rows as an HTML page that needs nothing else."""
    body = []
    for index, views in rows.items():
        body.append(f"<h2>row {index}: {len(views)} samples</h2>")
        for view in views:
            text = "".join(
                f"<mark>{html.escape(escaped(text, LINES))}</mark>"
                if trained
                else html.escape(escaped(_shortened(text, full), LINES))
                for text, trained in view.runs
            )
            body.append(f"<h3>{html.escape(_headline(view))}</h3><pre>{text}</pre>")
    with atomic_file(path) as stream:
        stream.write(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}'
            "</title><style>body{font-family:sans-serif;max-width:70em;margin:2em auto}"
            "pre{white-space:pre-wrap;background:#f6f6f6;padding:1em}mark{background:#9f9}"
            f"</style><h1>{html.escape(title)}</h1>{''.join(body)}</html>\n"
        )


def _headline(view: SampleView) -> str:
    position = view.evidence_position
    evidence = "" if position is None else f", evidence at {position:.2f}"
    end = view.start + view.length - 1
    return (
        f"{escaped(view.kind)} {view.id_hash}: tokens {view.start} to {end} "
        f"({view.length} + {view.padding} padding, {view.learnt_tokens} trained on{evidence})"
    )


def _shortened(text: str, full: bool) -> str:
    if full or len(text) <= SHOWN:
        return text
    half = SHOWN // 2
    return f"{text[:half]} […{len(text) - SHOWN:,} characters…] {text[-half:]}"
