"""A model that knows the answers, and small files in the forms that RULER's generators read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from transformers import AutoTokenizer


class Oracle(LM):
    """Answers every request by ``answer(row)``; it keeps what it was asked."""

    def __init__(self, folder: Path, answer: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.chat_template = None
        self.max_length = 1_000_000
        self.answer = answer
        self.prompts: list[str] = []

    def tok_encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.prompts += [request.args[0] for request in requests]
        chosen = [request.args[1].strip() == self.answer(request.doc) for request in requests]
        return [(0.0 if right else -1.0, right) for right in chosen]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def essays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prose of 7,200 words and more tokens than that."""
    folder = tmp_path_factory.mktemp("essays")
    for name in ("first", "second"):
        sentences = [
            f"On day {n} the {name} baker of street {n % 7} sold {n} loaves." for n in range(300)
        ]
        (folder / f"{name}.txt").write_text("\n".join(sentences) + "\n")
    return folder


@pytest.fixture(scope="session")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQuAD 2.0's form: 520 questions with answers, and as many without."""
    articles = []
    for n in range(130):
        context = f"The river of land {n} is called Blue{n}. It is {n} miles long. " * 3
        at = context.index(f"Blue{n}")
        right = {"answers": [{"text": f"Blue{n}", "answer_start": at}], "is_impossible": False}
        wrong = {"answers": [], "is_impossible": True}
        asked = [
            {"question": f"What is river {n} called ({k})?", "id": f"{n}-{k}", **kind}
            for k in range(4)
            for kind in (right, wrong)
        ]
        articles.append({"title": f"Land {n}", "paragraphs": [{"context": context, "qas": asked}]})
    path = tmp_path_factory.mktemp("squad") / "dev-v2.0.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return path


@pytest.fixture(scope="session")
def hotpotqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HotpotQA's form in the distractor setting."""
    rows = [
        {
            "_id": str(n),
            "question": f"Where was the writer of Book {n} born?",
            "answer": f"Town{n}",
            "type": "bridge",
            "level": "hard",
            "supporting_facts": [[f"Book {n}", 0], [f"Ann {n}", 0]],
            "context": [
                [f"Book {n}", [f"Book {n} is by Ann {n}.", " It sold well."]],
                [f"Ann {n}", [f"Ann {n} was born in Town{n}."]],
            ],
        }
        for n in range(510)
    ]
    path = tmp_path_factory.mktemp("hotpotqa") / "hotpot_dev_distractor_v1.json"
    path.write_text(json.dumps(rows))
    return path
