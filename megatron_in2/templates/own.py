"""A base's own chat template, rendered to parts: its control tokens become control ids."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text
from megatron_in2.records import ControlPart, Part, SamplePart
from megatron_in2.templates.base import ConversationError, Turn, Wording, answer_pieces
from megatron_in2.templates.rendering import DAY, render
from megatron_in2.templates.skeleton import Message, Skeleton, read_skeleton, written
from megatron_in2.templates.writer import PartWriter
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.files import CHAT_TEMPLATE, CONFIG, read_chat_template, token_roles

_CONTEXT = "\ufdd4context\ufdd5"  # in the place of a context, which no template needs to see
_TRIALS = (("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant") * 2)


@dataclass(frozen=True)
class OwnTemplate:
    """The chat template that a base was published with.

    A user's text is never searched for control tokens, so none can come from it.

    Args:
        source: the Jinja template.
        tokens: (role, name) of the special tokens that it may write.
        control: names of the control tokens that it writes.
        wording: how a user's message is made of an instruction and a context.
    """

    source: str
    tokens: tuple[tuple[str, str], ...]
    control: tuple[str, ...]
    wording: Wording
    name: str = "base"

    @property
    def markers(self) -> tuple[str, ...]:
        """None: what structures the prompt cannot come from a user's text."""
        return ()

    @cached_property  # every recipe is compared with it
    def sha256(self) -> str:
        """A hash of the template, the tokens that it writes, the wording and the day it is told."""
        texts = (self.source, repr(self.tokens), repr(self.control), repr(asdict(self.wording)))
        return sha256_of_text("\0".join((*texts, DAY.isoformat())))

    @cached_property
    def end_token(self) -> str:
        """The name of the control token that ends an answer."""
        (*_, end) = self.parts(None, [Turn("user", "assistant")])
        assert isinstance(end, ControlPart)
        return end.token

    def values(self) -> dict[str, Any]:
        """Return the template as plain JSON values."""
        return {
            "name": self.name,
            "chat_template": self.source,
            "tokens": dict(self.tokens),
            "control": list(self.control),
            "wording": asdict(self.wording),
        }

    def parts(self, system: str | None, turns: Sequence[Turn]) -> tuple[SamplePart, ...]:
        """Return the parts of a conversation that ends with an answer.

        What the template writes behind the last answer's end is left out.

        Raises:
            ConversationError: the template refuses, changes or drops a message, or ends an answer
                with something else than a control token.
        """
        messages: list[Message] = [] if system is None else [("system", system)]
        first = len(messages)
        for turn in turns:
            messages += [("user", _text_of(turn)), ("assistant", _answer_of(turn))]
        skeleton, contents = written(self._render, self._skeleton_of, messages)
        writer = PartWriter()
        self._write(writer, skeleton.texts[0])
        for slot, behind in zip(skeleton.slots, skeleton.texts[1:], strict=True):
            turn_place, is_answer = divmod(slot - first, 2)
            if slot < first:
                writer.text(contents[slot])
            elif not is_answer:
                _write_user(writer, turns[turn_place], contents[slot])
            else:
                turn = turns[turn_place]
                behind = self._write_answer(writer, turn, contents[slot], behind)
                if slot == len(messages) - 1:
                    break
            self._write(writer, behind)
        return writer.parts

    def prompt_text(self, message: str) -> str:
        """Return the prompt for one user's message as text, begin-of-sequence left out."""
        *prompt, _, _ = self.parts(None, [Turn(message, "assistant")])
        begin = dict(self.tokens).get("bos_token", "")
        return text_of_parts(prompt).removeprefix(begin)

    def user_span(self, prompt: str) -> tuple[int, int]:
        """Return where, in a prompt of this template, the user's message starts and ends."""
        before, after = self.prompt_text(_CONTEXT).split(_CONTEXT)
        return len(before), len(prompt) - len(after)

    def chat_template(self, tokenizer: Tokenizer) -> str:
        """Return the template itself."""
        return self.source

    def _render(self, messages: Sequence[Message], awaits_answer: bool) -> str:
        values = [{"role": role, "content": content} for role, content in messages]
        return render(self.source, values, dict(self.tokens), awaits_answer)

    def _skeleton_of(self, roles: tuple[str, ...], awaits_answer: bool) -> Skeleton:
        return _kept_skeleton(self, roles, awaits_answer)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.control, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def _write(self, writer: PartWriter, text: str) -> None:
        """Write text of the template's own: control tokens in it are control tokens."""
        for index, piece in enumerate(self._control_pattern.split(text)):
            if index % 2:
                writer.control(piece)
            else:
                writer.text(piece)

    def _write_answer(self, writer: PartWriter, turn: Turn, content: str, behind: str) -> str:
        """Write an answer and its end; return what the template writes behind that."""
        tail, end, rest = (*self._control_pattern.split(behind, maxsplit=1), "", "")[:3]
        if not end or tail.strip():
            raise ConversationError(
                f"the base's chat template ends an answer with {behind[:40]!r}, which is no "
                "control token: nothing would teach the model to stop; name another --template"
            )
        pieces = [*_kept_pieces(turn, content), (tail, turn.learn)]
        writer.answer(pieces)
        writer.control(end, turn.learn)
        return rest


def own_template(tokenizer: Tokenizer, wording: Wording) -> OwnTemplate | None:
    """Return the chat template of a tokenizer's directory, or None where it has none.

    Raises:
        InputError: it cannot be trained with.
    """
    if not {CHAT_TEMPLATE, CONFIG} & set(tokenizer.files):
        return None
    folder = tokenizer.path.parent
    source = read_chat_template(folder)
    if source is None:
        return None
    tokens = tuple(sorted(token_roles(folder).items()))
    every = OwnTemplate(source, tokens, tuple(tokenizer.control_ids), wording)
    found: set[str] = set()
    for roles in _TRIALS:
        try:
            turns = [Turn("user", "assistant")] * roles.count("user")
            parts = every.parts("system" if "system" in roles else None, turns)
        except ConversationError as error:
            if "system" in roles:
                continue  # a template may take none
            raise InputError(f"{folder}: {error}") from error
        found |= {part.token for part in parts if isinstance(part, ControlPart)}
    return OwnTemplate(source, tokens, tuple(sorted(found)), wording)


def text_of_parts(parts: Sequence[SamplePart]) -> str:
    """Return parts without a context as text, control tokens by their names."""
    texts = (part.token if isinstance(part, ControlPart) else part.text
             for part in parts if isinstance(part, ControlPart | Part))  # fmt: skip
    return "".join(texts)


@lru_cache(maxsize=256)
def _kept_skeleton(template: OwnTemplate, roles: tuple[str, ...], awaits_answer: bool) -> Skeleton:
    return read_skeleton(template._render, roles, awaits_answer)


def _text_of(turn: Turn) -> str:
    """Return a user's message as the template sees it: a mark in the place of its context."""
    if isinstance(turn.message, str):
        return turn.message
    return turn.message.before + _CONTEXT + turn.message.after


def _answer_of(turn: Turn) -> str:
    return "".join(text for text, _ in answer_pieces(turn))


def _kept_pieces(turn: Turn, content: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of an answer, of which the template kept ``content``: a run of them."""
    start = _answer_of(turn).find(content)
    end, place = start + len(content), 0
    for text, learn in answer_pieces(turn):
        yield text[max(start - place, 0) : max(end - place, 0)], learn
        place += len(text)


def _write_user(writer: PartWriter, turn: Turn, content: str) -> None:
    """Write a user's message as the template left it."""
    if isinstance(turn.message, str):
        writer.text(content)
        return
    before, _, after = content.partition(_CONTEXT)
    writer.text(before)
    writer.context(turn.message)
    writer.text(after)
