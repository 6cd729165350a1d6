"""Gathers what a chat template writes, in order, into the parts of a sample."""

from collections.abc import Iterable
from dataclasses import replace

from megatron_in2.records import ContextPart, ControlPart, Follows, JoinedPart, Part, SamplePart


class PartWriter:
    """Joins texts that follow each other; control tokens and answers are parts of their own."""

    def __init__(self) -> None:
        self._parts: list[SamplePart] = []
        self._before = ""
        self._context: JoinedPart | ContextPart | None = None
        self._after = ""

    @property
    def parts(self) -> tuple[SamplePart, ...]:
        """What was written, up to the last control token or answer."""
        return tuple(self._parts)

    def text(self, text: str) -> None:
        """Write text that is not trained on."""
        if self._context is None:
            self._before += text
        else:
            self._after += text

    def context(self, context: JoinedPart | ContextPart) -> None:
        """Write a context; what is around it is written as text."""
        self._context = context

    def control(self, token: str, learn: bool = False) -> None:
        """Write a control token, by its name."""
        self._end_run()
        self._parts.append(ControlPart(token, learn))

    def answer(self, pieces: Iterable[tuple[str, bool]]) -> None:
        """Write an answer: (text, whether it is trained on), the last piece its own part always.

        Neighbours of one kind are one piece. Spaces before a trained piece belong to it: they
        are one token with its first word, which a model generates.
        """
        merged: list[tuple[str, bool]] = []
        for text, learn in pieces:
            if merged and merged[-1][1] == learn:
                text = merged.pop()[0] + text
            merged.append((text, learn))
        for text, learn in merged[:-1]:
            if learn:
                self._own_part(text, learn)
            else:
                self.text(text)
        self._own_part(*merged[-1])

    def _own_part(self, text: str, learn: bool) -> None:
        space = self._cut_spaces()
        self._end_run()
        self._parts.append(Part(space + text, learn, self._follows))

    def _cut_spaces(self) -> str:
        run = self._before if self._context is None else self._after
        rest = run.rstrip(" ")
        if self._context is None:
            self._before = rest
        else:
            self._after = rest
        return run[len(rest) :]

    @property
    def _follows(self) -> Follows:
        if not self._parts:
            return "nothing"
        return "control" if isinstance(self._parts[-1], ControlPart) else "text"

    def _end_run(self) -> None:
        if self._context is not None:
            self._parts.append(
                replace(
                    self._context, before=self._before, after=self._after, follows=self._follows
                )
            )
        elif self._before:
            self._parts.append(Part(self._before, learn=False, follows=self._follows))
        self._before, self._context, self._after = "", None, ""
