"""General instruction data: an even draw from chat records, in two passes and little memory."""

import hashlib
import heapq
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.progress import progress_bar
from megatron_in2.shards import Shard
from megatron_in2.synthesis.composition.config import InstructionsConfig
from megatron_in2.synthesis.composition.samples import Finished
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.sources import field_of, file_records, hub_records
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.ids import TokenCounter
from megatron_in2.tokenizers.base import Tokenizer

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Conversation:
    """One record: ``is_chat`` if its turns stay turns, else one instruction with its answer."""

    where: str
    id: str
    messages: Messages
    is_chat: bool

    @property
    def instruction(self) -> str:
        """The system prompt, if any, and the question."""
        return "\n\n".join(message["content"] for message in self.messages[:-1])

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]

    def fields(self) -> dict[str, object]:
        """Return the sample's own fields."""
        if self.is_chat:
            return {"messages": self.messages}
        return {"question": self.instruction, "answer": self.answer}


class InstructionStage:
    """Reads chat records and draws as many as are wanted.

    Args:
        config: where they come from.
        shard: which of them belong to this job.
        tokenizer: counts tokens.
        template: of a chat turn.
        max_tokens: longer conversations are left out.
        seed: of the draw.
        records: yields all (place, record) at each call.
    """

    def __init__(
        self,
        config: InstructionsConfig,
        shard: Shard,
        tokenizer: Tokenizer,
        template: Template,
        max_tokens: int,
        seed: int,
        records: Callable[[], Iterator[tuple[str, dict[str, Any]]]],
    ) -> None:
        self._config = config
        self._shard = shard
        self._counter = TokenCounter(tokenizer)
        self._template = template
        self._max_tokens = max_tokens
        self._seed = seed
        self._records = records

    def samples(self, wanted: int, rejects: Rejects) -> Iterator[Finished]:
        """Yield ``wanted`` conversations in the order of their source, each as likely as another.

        The first pass keeps the smallest hashes and nothing else; the second yields them.

        Raises:
            InputError: an unreadable record. Fewer than wanted are yielded if there are no more.
        """
        smallest: list[tuple[int, int]] = []  # (minus rank, minus place): the largest rank first
        ranks: set[int] = set()
        bar = progress_bar(self._conversations(), desc="instructions", unit=" records")
        for place, conversation in enumerate(bar):
            rank = self._rank(conversation.id)
            if len(smallest) == wanted and rank > -smallest[0][0]:
                continue
            if (reason := self._problem(rank, ranks, conversation)) is not None:
                rejects.drop(
                    f"instruction/{conversation.id}",
                    f"instruction: {reason}",
                    where=conversation.where,
                )
                continue
            ranks.add(rank)
            heapq.heappush(smallest, (-rank, -place))
            if len(smallest) > wanted:
                ranks.remove(-heapq.heappop(smallest)[0])
        chosen = {-place for _, place in smallest}
        for place, conversation in enumerate(self._conversations()):
            if place in chosen:
                record = {
                    "id": f"instruction/{conversation.id}",
                    "kind": "instruction",
                    **conversation.fields(),
                }
                line = json.dumps(record, ensure_ascii=False) + "\n"
                yield Finished(line, "instruction", self._tokens(conversation), None)

    def _problem(self, rank: int, ranks: set[int], conversation: _Conversation) -> str | None:
        if rank in ranks:
            return "exact duplicate"
        if not all(message["content"].strip() for message in conversation.messages):
            return "empty turn"
        return "too long" if self._tokens(conversation) > self._max_tokens else None

    def _conversations(self) -> Iterator[_Conversation]:
        """Yield this shard's records."""
        field = self._config.messages_field
        for where, record in self._records():
            messages = _messages(where, record, self._config)
            identity = _identity(messages)
            if self._shard.holds(identity):
                is_chat = record.get(field) is not None or self._config.wording == "chat"
                yield _Conversation(where, identity, messages, is_chat)

    def _tokens(self, conversation: _Conversation) -> int:
        """Return the length of the encoded conversation (token rule of the packed data)."""
        if conversation.is_chat:
            messages = conversation.messages
            system = messages[0]["content"] if messages[0]["role"] == "system" else None
            said = messages[system is not None :]
            pairs = zip(said[::2], said[1::2], strict=True)
            turns = [Turn(user["content"], answer["content"]) for user, answer in pairs]
        else:
            message = self._template.wording.message(conversation.instruction, None)
            system, turns = None, [Turn(message, conversation.answer)]
        return self._counter.count(self._template.parts(system, turns))

    def _rank(self, identity: str) -> int:
        digest = hashlib.sha256(f"{self._seed}/{identity}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


def instruction_records(config: InstructionsConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of all instruction data."""
    if config.source == "hub":
        return hub_records("instructions", config.dataset, config.subset, config.split)
    return itertools.chain.from_iterable(file_records(Path(path)) for path in config.paths)


def instruction_identity(where: str, record: dict[str, Any], config: InstructionsConfig) -> str:
    """Return a record's id, by which shards divide them.

    Raises:
        InputError: the record is no conversation.
    """
    return _identity(_messages(where, record, config))


def _identity(messages: Messages) -> str:
    return hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]


def _messages(where: str, record: dict[str, Any], config: InstructionsConfig) -> Messages:
    if record.get(config.messages_field) is not None:
        return _checked_messages(record[config.messages_field], where, config.messages_field)
    system = record.get(config.system_field)
    fields = (config.question_field, config.response_field)
    question, response = (
        field_of(record, field, where, f"instructions.{name}_field")
        for name, field in zip(("question", "response"), fields, strict=True)
    )
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": response},
    ]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return _checked_messages(messages, where, ", ".join(fields))


def _checked_messages(value: Any, where: str, field: str) -> Messages:
    """Return messages of the form [system] (user assistant)+.

    Raises:
        InputError: they have another form, or are no text.
    """
    try:
        messages = [{"role": message["role"], "content": message["content"]} for message in value]
        roles = [message["role"] for message in messages]
    except (TypeError, KeyError):
        roles = []
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise InputError(
            f"{where}: field {field}: not a conversation of user and assistant turns: "
            f"{value!r:.80}; correct or remove the record"
        )
    for message in messages:
        if not isinstance(message["content"], str):
            raise InputError(
                f"{where}: field {field}: holds {type(message['content']).__name__}, not text; "
                "correct or remove the record"
            )
    return messages
