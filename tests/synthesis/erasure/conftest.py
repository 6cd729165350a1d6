"""A teacher behind the OpenAI protocol, two strategies, and samples of every form."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.tokenizers.base import Tokenizer
from tests.synthesis.conftest import chat_reply, serve_chat, write_samples

QUOTE = "Copy the sentence that settles it, and close with a line that begins with Final answer:"
STEPS = "Number every step of the work, and close with a line that begins with Final answer:"
LINES = [f"The lamp of pier {n} has the colour tone{n} since spring." for n in range(8)]


class Teacher:
    """Answers the tasks of ``samples``; a test changes ``says``, ``refuse_after`` and ``seen``."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answered = 0
        self.says: Callable[[str, str, int], str] = right_by_kind
        self.refuse_after: int | None = None
        self.seen: Callable[[int], None] = lambda count: None
        self.usage: Callable[[str], int] = lambda content: len(content)
        self.url = ""
        self._lock = threading.Lock()

    @property
    def prompts(self) -> list[str]:
        """What was asked, without repetitions."""
        return sorted({json.dumps(each["messages"]) for each in self.asked})

    def reply(self, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.asked.append(payload)
            count = len(self.asked)
        self.seen(count)
        if self.refuse_after is not None and count > self.refuse_after:
            return 401, {"error": "no"}
        system, last = payload["messages"][0], payload["messages"][-1]
        number = int(last["content"].split(" pier ")[-1].split("?")[0])
        content = self.says(system["content"], last["content"], number)
        with self._lock:
            self.answered += 1
        return 200, chat_reply(count, content, 10, self.usage(content))


def right_by_kind(system: str, message: str, number: int) -> str:
    """Quoting finds the colour in a context; steps find the number without one."""
    if "Which colour" in message:
        found = f"tone{number}" if QUOTE in system else "grey"
    else:
        found = str(number * 2) if STEPS in system else "0"
    return f"It is about pier {number}, so it follows.\nFinal answer: {found}"


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Teacher]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = Teacher()
    with serve_chat(served.reply) as served.url:
        yield served


@pytest.fixture
def strategies(tmp_path: Path) -> Path:
    folder = tmp_path / "strategies"
    folder.mkdir()
    for name, prompt in (("quote", QUOTE), ("steps", STEPS)):
        text = f'name: {name}\nprompt: "{prompt}"\nanswer_mark: "Final answer:"\n'
        (folder / f"{name}.yaml").write_text(text)
    return folder


def task_record(number: int, store: Path) -> dict[str, Any]:
    line = number % 8
    start = sum(len(each) + 1 for each in LINES[:line])
    colour = {"question": f"Which colour is at pier {line}?", "answer": f"tone{line}"}
    double = f"What is twice the number of pier {number}?"
    turns = [{"role": "user", "content": double}, {"role": "assistant", "content": f"{2 * number}"}]
    system = {"role": "system", "content": "Count in tens."}
    forms: list[dict[str, Any]] = [
        {"kind": "lookup", "context": "\n".join(LINES), **colour,
         "evidence": [[start, start + len(LINES[line])]]},
        {"kind": "lookup", "store": store.name, "segments": list(range(8)), "evidence": [line],
         "n_tokens": 1, "question": f"Which colour has the lamp at pier {line}?",
         "answer": f"tone{line}", "template_sha256": "of another template"},
        {"kind": "sum", "messages": turns if number % 8 < 4 else [system, *turns]},
        {"kind": "sum", "question": double, "answer": f"{2 * number}"},
        {"kind": "parts", "parts": [{"text": double, "learn": False},
                                    {"text": f"{2 * number}", "learn": True}]},
    ]  # fmt: skip
    return {"id": f"s{number}", **forms[number % 5]}


@pytest.fixture
def samples(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """40 samples: 16 of lookup (text, recipe), 16 of sum (chat, text), 8 of parts."""
    return write_samples(tmp_path / "in", LINES, tokenizer, task_record)
