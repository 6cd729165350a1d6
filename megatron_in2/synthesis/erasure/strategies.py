"""Strategies as files: a name, the system prompt, and how the final answer is marked."""

import re
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_yaml
from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.replies import MAX_CHARACTERS, is_readable

PACKAGED = Path(__file__).with_name("strategies")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ReasonedAnswer:
    """What a teacher answered: all of it, the final answer in it, or why there is none."""

    text: str = ""
    final: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Strategy:
    """One way to work on a task.

    Args:
        name: letters, digits, ``-``, ``_`` and ``.``; records, choice and reports have it.
        prompt: the system message that asks for it; erased in training.
        answer_mark: what precedes the final answer, as the prompt says it; None: the whole reply
            is the answer.
        needs_evidence: whether it is of use for samples with evidence only.
    """

    name: str
    prompt: str
    answer_mark: str | None = None
    needs_evidence: bool = False

    def read(self, reply: Reply) -> ReasonedAnswer:
        """Find the final answer in a reply, whatever the reply is."""
        if reply.problem is not None:
            shown = reply.problem.replace("max_answer_tokens", "--max-new-tokens")
            return ReasonedAnswer(problem=shown)
        text = reply.text.strip()
        if len(text) > MAX_CHARACTERS:
            return ReasonedAnswer(problem="reply too long")
        if not is_readable(text):
            return ReasonedAnswer(problem="unreadable characters")
        final = text
        if self._mark is not None:
            *_, last = [None, *self._mark.finditer(text)]
            if last is None:
                return ReasonedAnswer(text, problem="final answer is not marked")
            final = text[last.end() :].strip().strip("*_").strip()
        if not final:
            return ReasonedAnswer(text, problem="empty final answer")
        return ReasonedAnswer(text, final)

    @cached_property
    def _mark(self) -> re.Pattern[str] | None:
        """Match the mark in any case, in bold print or not."""
        if self.answer_mark is None:
            return None
        label, colon = self.answer_mark.removesuffix(":"), self.answer_mark.endswith(":")
        words = r"\s+".join(map(re.escape, label.split()))
        return re.compile(words + (r"[*_]{0,3}\s?[:：][*_]{0,3}" if colon else ""), re.IGNORECASE)


_FIELDS = {each.name: each for each in fields(Strategy)}
_TYPES = {"name": str, "prompt": str, "answer_mark": str, "needs_evidence": bool}


def load_strategies(folder: Path | None) -> dict[str, Strategy]:
    """Read all strategy files of a directory, by the files' names; the package's for None.

    Returns:
        The strategies by their names.

    Raises:
        InputError: no such directory or file in it, or a file is no strategy.
    """
    folder = folder or PACKAGED
    paths = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not paths:
        raise InputError(f"--strategies {folder}: name a directory with strategy files (*.yaml)")
    found: dict[str, Strategy] = {}
    for path in paths:
        strategy = _read(path)
        if strategy.name in found:
            raise InputError(f"{path}: field 'name': {strategy.name} is another file's: rename one")
        found[strategy.name] = strategy
    return found


def _read(path: Path) -> Strategy:
    values = read_yaml(path)
    if not isinstance(values, dict) or not set(values) <= set(_FIELDS):
        raise InputError(f"{path}: give the fields {', '.join(_FIELDS)}, nothing else")
    for name, item in _FIELDS.items():
        _require_field(path, name, values.get(name), item.default is MISSING)
    strategy = Strategy(**{**values, "prompt": values["prompt"].strip()})
    if not _NAME.fullmatch(strategy.name):
        raise InputError(f"{path}: field 'name' is {strategy.name!r}: use letters, digits, - and _")
    if strategy.answer_mark is not None and strategy.answer_mark not in strategy.prompt:
        raise InputError(
            f"{path}: field 'answer_mark': the prompt does not ask for {strategy.answer_mark!r}, "
            "so no answer would have it: write it into the prompt"
        )
    return strategy


def _require_field(path: Path, name: str, value: Any, required: bool) -> None:
    if value is None and not required:
        return
    if not isinstance(value, _TYPES[name]) or (isinstance(value, str) and not value.strip()):
        wanted = "true or false" if _TYPES[name] is bool else "text"
        raise InputError(f"{path}: field {name!r} must be {wanted}, found {value!r:.60}")
