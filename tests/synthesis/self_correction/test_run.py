"""A whole run: attempts drawn, judged, written in every form, packed, and masked."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_in2.commands.self_correction import read_tasks
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, read_json_lines
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.run import make_self_corrections
from megatron_in2.synthesis.self_correction.tasks import Drawn, Task
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from tests.synthesis.conftest import write_samples

CONFIG = SelfCorrectionConfig(judge="exact", plain_share=0.2, corrections=2)
LINES = [f"Thing {n} is kind {n} of all." for n in range(10)]


def _record(number: int, store: Path) -> dict[str, Any]:
    question, answer = f"Of which kind is thing {number % 10}?", f"kind{number}"
    qa = {"question": question, "answer": answer}
    line = number % 10
    start = sum(len(each) + 1 for each in LINES[:line])
    context = {"context": "\n".join(LINES), "evidence": [[start, start + len(LINES[line])]]}
    recipe = {"store": store.name, "segments": list(range(10)), "evidence": [line], "n_tokens": 1}
    forms: list[dict[str, Any]] = [
        {"kind": "fine_grained", **context, **qa},
        {"kind": "recipe", **recipe, **qa, "template_sha256": "of another template"},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        },
        {"parts": [{"text": question, "learn": False}, {"text": answer, "learn": True}]},
    ]
    return {"id": f"s{number}", "note": "half a pair: \ud83d", **forms[number % 4]}


@pytest.fixture
def samples(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return write_samples(tmp_path / "in", LINES, tokenizer, _record)


class _Drawer:
    """Half of the samples have two wrong attempts, the others one right and one wrong one."""

    def __init__(self, name: str = "model", stop_after: int | None = None) -> None:
        self.identity = {"name": name}
        self.drawn = 0
        self._stop_after = stop_after

    def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
        for task in tasks:
            if self.drawn == self._stop_after:
                raise KeyboardInterrupt
            self.drawn += 1
            number = int(task.sample.id[1:])
            second = task.reference if number % 8 < 4 else f"gamma{number}"
            yield Drawn((f"beta{number}", second, f"Beta{number}."), cut_off=1)


def _run(
    samples: Path, output: Path, drawer: _Drawer, config: SelfCorrectionConfig = CONFIG
) -> dict[str, Any]:
    def tasks() -> Iterator[Task]:
        return read_tasks(samples, FILM)

    return make_self_corrections(config, drawer, samples, tasks, output).report


def _trained_and_not(path: Path, prefix: Path, tokenizer: Tokenizer) -> tuple[str, str]:
    """Pack samples; return the text that is trained on, and the rest."""
    preprocess(
        PreprocessConfig(
            [path],
            prefix,
            tokenizer_model="mistral-v1",
            seq_length=512,
            design="partial-answer-masking",
        )
    )
    dataset, texts = PackedDataset(prefix), {0: "", 1: ""}
    for index in range(len(dataset)):
        row = dataset[index]
        steps = np.flatnonzero(np.diff(row.loss_mask.astype(int), prepend=2, append=2))
        for start, end in pairwise(steps):
            text = tokenizer.decode(row.tokens[start:end].tolist())
            texts[int(row.loss_mask[start])] += f" {text}"
    return texts[1], texts[0]


def test_wrong_attempts_are_masked_and_corrections_trained(
    samples: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    output = tmp_path / "out" / "y.jsonl"
    report = _run(samples, output, _Drawer())
    assert report["samples"] == {"corrected": 16, "verified": 16, "plain": 8}
    records = [record for _, record in read_json_lines(output)]
    assert len(records) == 40
    corrected = [each for each in records if "attempt" in each]
    assert len(corrected) == 16
    assert {"s1", "s4"} & {each["id"] for each in records}
    assert all(each["note"] == "half a pair: \ud83d" for each in records)
    trained, untrained = _trained_and_not(output, tmp_path / "packed", tokenizer)
    for each in corrected:
        number = each["id"][1:]
        for attempt in each["attempt"]:
            assert attempt["text"] in (f"beta{number}", f"gamma{number}")
            assert f" {attempt['text']}" in untrained
            assert attempt["text"] not in trained
            assert attempt["verification"] in trained
    assert all(f"kind{each['id'][1:]}" in trained for each in records)
    assert "kind" not in untrained.replace("is kind", "").replace("which kind", "")
    # Control: the same attempts inside the answers are trained on, and the check sees it.
    merged = [{**each, "attempt": None} for each in records]
    for each in merged:
        if "question" in each and each["kind"].endswith("corrected"):
            each["answer"] = f"beta{each['id'][1:]} {each['answer']}"
    control = samples.parent / "control.jsonl"
    for each in merged:
        if "store" in each:
            each["store"] = "x.segments"
    control.write_text("".join(json.dumps(each) + "\n" for each in merged))
    trained, _ = _trained_and_not(control, tmp_path / "control", tokenizer)
    assert "beta" in trained


def test_a_killed_run_goes_on_to_the_same_bytes(samples: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    _run(samples, whole, _Drawer())
    for stop_after in (0, 7, 20):
        with pytest.raises(KeyboardInterrupt):
            _run(samples, killed, _Drawer(stop_after=stop_after))
        assert not killed.exists()
    attempts = tmp_path / "killed.jsonl.attempts.jsonl"
    with open(attempts, "ab") as stream:
        stream.write(b'{"texts": ["half')
    last = _Drawer()
    _run(samples, killed, last)
    assert last.drawn == 40 - 27
    assert killed.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match=r"killed.jsonl already exists"):
        _run(samples, killed, _Drawer())
    killed.unlink()
    again = _Drawer()
    _run(samples, killed, again, replace(CONFIG, wrong_share=0.25))  # other shares: nothing drawn
    assert again.drawn == 0
    killed.unlink()
    for drawer, config in ((_Drawer("other"), CONFIG), (_Drawer(), replace(CONFIG, seed=5))):
        with pytest.raises(InputError, match="attempts of another model, other samples"):
            _run(samples, killed, drawer, config)


def test_the_report_says_where_attempts_are_right(samples: Path, tmp_path: Path) -> None:
    class EndsOnly(_Drawer):
        def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
            for task in tasks:
                position = task.sample.evidence_position
                found = position is not None and not 0.2 < position < 0.8
                yield Drawn((task.reference if found else "lost",))

    report = _run(samples, tmp_path / "y.jsonl", EndsOnly(), replace(CONFIG, bins=5))
    bins = report["accuracy_by_position"]
    assert [each["accuracy"] for each in bins] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert sum(each["attempts"] for each in bins) == 20  # a chat's evidence is not known
    assert report["accuracy"] == 8 / 40
    assert read_json(tmp_path / "y.jsonl.report.json") == report


def test_what_cannot_be_used_is_named(samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "y.jsonl"

    class Right(_Drawer):
        def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
            return (Drawn((task.reference,)) for task in tasks)

    with pytest.raises(InputError, match=r"0 have a wrong attempt and 40 a right one"):
        _run(samples, output, Right())
    report = _run(samples, output, Right(), replace(CONFIG, wrong_share=0.0))
    assert report["samples"] == {"verified": 32, "plain": 8}
    lines = samples.read_text().splitlines()
    samples.write_text("\n".join([lines[0], json.dumps({**json.loads(lines[2]), "attempt": "x"})]))
    with pytest.raises(InputError, match=r"x.jsonl:2: field 'attempt' is given"):
        _run(samples, tmp_path / "z.jsonl", Right())
    chat = json.loads(lines[2])
    chat["messages"][-1]["train"] = False
    parts = json.loads(lines[3])
    parts["parts"].append({"text": "more", "learn": True})
    records = [*map(json.loads, lines[:2]), chat, parts]
    samples.write_text("\n".join(map(json.dumps, records)))
    _run(samples, tmp_path / "z.jsonl", _Drawer(), replace(CONFIG, wrong_share=1.0))
    rejects = [each for _, each in read_json_lines(tmp_path / "z.jsonl.rejects.jsonl")]
    assert [(each["id"], each["reason"]) for each in rejects] == [
        ("s2", "last answer is not trained on"),
        ("s3", "answer of several parts"),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tries": 0}, "--tries 0"),
        ({"temperature": 0.0}, "--temperature 0 gives the same attempt --tries 4 times"),
        ({"judge": "odd"}, "--judge odd"),
        ({"plain_share": 1.0}, "--plain-share 1.0"),
        ({"wrong_share": -0.1}, "--wrong-share -0.1"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SelfCorrectionConfig(**options)
