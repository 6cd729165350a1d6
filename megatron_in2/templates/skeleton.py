"""What a chat template writes around the contents of a conversation's messages.

A template is a program: which text it writes is known only by running it. It is run twice, once
with a mark in the place of each content, which gives the text around the contents, and once with
the contents, which shows what it makes of them. It may cut white space off their ends; a template
that changes or drops a content in any other way is refused.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_in2.templates.base import ConversationError

# Noncharacters of Unicode, which no text should hold.
_OPEN, _CLOSE = "\ufdd2", "\ufdd3"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

Message = tuple[str, str]  # role and content
Render = Callable[[Sequence[Message], bool], str]
SkeletonOf = Callable[[tuple[str, ...], bool], "Skeleton"]


@dataclass(frozen=True)
class Skeleton:
    """The text around the contents, in the order in which the contents appear.

    Args:
        texts: n + 1 texts, before, between and behind the contents.
        slots: n places in the conversation: whose content comes behind each text.
    """

    texts: tuple[str, ...]
    slots: tuple[int, ...]

    def contents(self, rendered: str, messages: Sequence[Message]) -> dict[int, str]:
        """Return what became of each content in a rendered conversation, by place.

        Raises:
            ConversationError: the text is not this skeleton with the contents in it.
        """
        shown = {}
        text, place = rendered, len(self.texts[0])
        fits = rendered.startswith(self.texts[0])
        for slot, behind in zip(self.slots, self.texts[1:], strict=True):
            found = _trimmed(text, place, messages[slot][1], behind) if fits else None
            if found is None:
                fits = False
                break
            shown[slot] = found
            place += len(found) + len(behind)
        if not fits or place != len(rendered):
            raise ConversationError("the base's chat template rewrites a message, or drops it")
        return shown


def _trimmed(text: str, place: int, content: str, behind: str) -> str | None:
    """Return a content as it is written at a place of a text, its ends cut or not."""
    core = content.strip()
    lead = content[: len(content) - len(content.lstrip())]
    trail = content[len(lead) + len(core) :]
    start = text.find(core, place, place + len(lead) + len(core))
    if start < 0 or not lead.endswith(text[place:start]):
        return None
    end = start + len(core)
    for size in range(len(trail), -1, -1):
        if text.startswith(trail[:size] + behind, end):
            return text[place : end + size]
    return None


def written(
    render: Render, skeleton_of: SkeletonOf, messages: Sequence[Message]
) -> tuple[Skeleton, dict[int, str]]:
    """Return the text around the contents of a conversation that ends with an answer.

    Mistral's templates write a system message before the last user message, and leave it out
    where an answer follows. What the template writes for that prompt then takes the place of what
    it writes for the conversation, up to the end of the last user message.

    Args:
        render: renders messages; the second argument asks for what precedes an answer.
        skeleton_of: :func:`read_skeleton` of this renderer, for roles; its results may be kept.
        messages: at least a user message and an answer.

    Returns:
        The skeleton; each content as it is written, by its place in the conversation.

    Raises:
        ConversationError: the template fails, or changes, repeats or drops a message.
    """
    roles = tuple(role for role, _ in messages)
    whole = skeleton_of(roles, False)
    contents = whole.contents(render(messages, False), messages)
    last = len(messages) - 1
    if whole.slots[-2:] != (last - 1, last):
        raise ConversationError("the base's chat template drops a message")
    if len(whole.slots) < len(messages):
        prompt = skeleton_of(roles[:-1], True)
        contents |= prompt.contents(render(messages[:-1], True), messages)
        if prompt.slots[-1:] != (last - 1,):
            raise ConversationError("the base's chat template drops a message")
        whole = Skeleton(prompt.texts[:-1] + whole.texts[-2:], (*prompt.slots, last))
    if len(whole.slots) < len(messages):
        raise ConversationError("the base's chat template drops a message")
    return whole, contents


def read_skeleton(render: Render, roles: Sequence[str], awaits_answer: bool) -> Skeleton:
    """Return what a template writes around the contents of messages with these roles.

    Raises:
        ConversationError: the template fails, or repeats a content.
    """
    marks = [(role, f"{_OPEN}{index}{_CLOSE}") for index, role in enumerate(roles)]
    texts = _MARK.split(render(marks, awaits_answer))
    slots = tuple(map(int, texts[1::2]))
    if len(set(slots)) != len(slots):
        raise ConversationError("the base's chat template repeats a message")
    return Skeleton(tuple(texts[::2]), slots)
