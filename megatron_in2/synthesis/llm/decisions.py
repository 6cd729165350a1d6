"""What was decided about questions, kept in the journal: a run that goes on checks none twice.

Decisions hold under their conditions alone: everything that a question, its answer and the checks
of both depend on, the program included. Under other conditions they are forgotten, and every
question is checked again.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megatron_in2.files import sha256_of_text
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.questions.writer import Draft, Evidence, Outcome

CHUNK = 256  # decisions that are read, or written, at once
_PACKAGE = Path(__file__).resolve().parents[2]
_SOURCES = ("synthesis", "templates", "tokenizers")
_LIBRARIES = ("regex", "sentencepiece", "tokenizers")


class JournalledDecisions:
    """Decisions about the questions of one run.

    Args:
        ledger: of the journal that keeps them.
        unanswered: returns how many requests were given up so far: they are tried again by the
            next run, so nothing is kept of a question that needed one of them.
        conditions: names the conditions; see :func:`conditions_of`.
    """

    def __init__(self, ledger: Ledger, unanswered: Callable[[], int], conditions: str) -> None:
        self._table = ledger.journal.decisions
        self._commits = ledger.commits
        self._unanswered = unanswered
        self._table.require_conditions(conditions)
        self._chunks: dict[str, tuple[int, dict[int, bytes]]] = {}  # by kind: first place, rows
        self._waiting: list[tuple[str, int, bytes]] = []

    def mark(self) -> int:
        """Return what :meth:`keep` compares with, before a question is begun."""
        return self._unanswered()

    def recall(self, evidence: Evidence, place: int) -> Outcome | None:
        """Return what became of the question at a place of its kind's order, or None."""
        first = place - place % CHUNK
        chunk = self._chunks.get(evidence.kind)
        if chunk is None or chunk[0] != first:
            rows = self._table.between(evidence.kind, first, first + CHUNK)
            chunk = self._chunks[evidence.kind] = first, rows
        row = chunk[1].get(place)
        if row is None:
            return None
        identity, question, answer, reply, reason, key, frame_tokens = json.loads(
            row.decode("utf-8", "surrogatepass")
        )
        if identity != evidence.id:
            return None
        return Outcome(Draft(question, answer, reply=reply), reason, key, frame_tokens)

    async def keep(self, evidence: Evidence, place: int, outcome: Outcome, mark: int) -> None:
        """Keep an outcome, unless a request was given up since the mark."""
        if self._unanswered() != mark:
            return
        draft = outcome.draft
        values = (draft.question, draft.answer, draft.reply, outcome.reason)
        row = json.dumps(
            [evidence.id, *values, outcome.key, outcome.frame_tokens], ensure_ascii=False
        )
        self._waiting.append((evidence.kind, place, row.encode("utf-8", "surrogatepass")))
        if len(self._waiting) >= CHUNK:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; without it, a process that dies forgets some decisions."""
        rows, self._waiting = self._waiting, []
        if rows:
            await self._commits.write(lambda: self._table.add(rows))


def conditions_of(*parts: Any) -> str:
    """Return a name for conditions: a hash of the parts, of this program and of its libraries.

    Args:
        parts: settings and hashes that outcomes depend on; their ``repr`` tells them apart.
    """
    files = sorted(
        path
        for folder in _SOURCES
        for suffix in ("*.py", "*.txt")
        for path in (_PACKAGE / folder).rglob(suffix)
    )
    program = [(str(path.relative_to(_PACKAGE)), path.read_text("utf-8")) for path in files]
    libraries = [(name, version(name)) for name in _LIBRARIES]
    return sha256_of_text(repr((sys.version, libraries, program, parts)))
