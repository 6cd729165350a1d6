"""The real lm-evaluation-harness with our task files, on a tiny model and local rows."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks import harness_run
from megatron_in2.evaluation.benchmarks.catalogue import BENCHMARKS, BenchmarkScore
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.harness_model import BothEndsLM
from megatron_in2.evaluation.benchmarks.harness_run import model_template, run_benchmarks
from megatron_in2.evaluation.benchmarks.harness_tasks import TASK_FILES, harness_task
from megatron_in2.evaluation.benchmarks.prompting import prompting_with
from megatron_in2.evaluation.benchmarks.report import ModelScores, benchmark_table
from megatron_in2.evaluation.benchmarks.suites import SUITES
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.templates.load import BASE, TEMPLATE_FILE
from megatron_in2.templates.wordings import WORDINGS
from tests.evaluation.conftest import LONGEST

CHOICES = {"label": list("ABCDE"), "text": ["bank", "library", "store", "mall", "town"]}
ROWS = {
    "csqa": [{"question": "Where are books?", "choices": CHOICES, "answerKey": "B"}] * 2,
    "arc_challenge": [{"id": "1", "question": "What?", "choices": CHOICES, "answerKey": "B"}] * 2,
    "narrativeqa": [{"context": "Ann ran.", "question": "Who ran?", "answers": ["Ann"]}],
    "gsm8k": [{"question": "2+2?", "answer": "It is <<2+2=4>>4.\n#### 4"}],
    "gsm8k.train": [
        {"question": f"{n}+2?", "answer": f"It is <<{n}+2={n + 2}>>{n + 2}.\n#### {n + 2}"}
        for n in range(9)
    ],
    "trec": [
        {
            "context": "\n".join(
                f"Question: What is number {n}?\nType: number" for n in range(600)
            ),
            "input": "Question: Where is it?\nType:",
            "answers": ["place"],
            "all_classes": ["number", "place"],
        }
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_our_tasks_and_the_harness_own(tiny_model: Path, data: Path) -> None:
    asked = ["csqa", "arc_challenge", "mmlu", "race"]
    scores, not_run = run_benchmarks(HarnessConfig(tiny_model, asked, data, limit=1))
    assert scores["csqa"].samples == scores["arc_challenge"].samples == 1
    assert scores["csqa"].score in (0.0, 100.0)
    assert list(not_run) == ["mmlu", "race"]
    assert "take it from the hub" in not_run["mmlu"]
    assert "race.jsonl does not exist" in not_run["race"]


def _prompt(name: str, data: Path) -> str:
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(TASK_FILES), include_defaults=False)
    (task,) = tasks.load([harness_task(BENCHMARKS[name], data)])["tasks"].values()
    task.set_fewshot_seed(0)
    document = next(iter(task.eval_docs))
    return task.fewshot_context(document, task.config.num_fewshot or 0)


def test_prompts_to_the_byte(data: Path) -> None:
    assert _prompt("csqa", data) == (
        "[INST] Below is a user instruction. Write a response for the instruction.\n\n"
        "### Instruction:\nAnswer the following question.\nQuestion: Where are books?\n"
        "Candidates:\nA: bank\nB: library\nC: store\nD: mall\nE: town\n"
        "Choose one answer from A / B / C / D / E. [/INST]\nThe answer is"
    )
    assert _prompt("narrativeqa", data) == FILM.prompt(
        "Answer the question based on the given story. Give only a short answer.\n"
        "Question: Who ran?",
        "Ann ran.",
    )
    # The most similar one is nearest to the question; 8+2 is the ninth.
    examples = "".join(
        f"Question: {n}+2?\nAnswer: It is {n + 2}. The answer is {n + 2}.\n\n"
        for n in (7, 6, 5, 4, 3, 1, 0, 2)
    )
    assert _prompt("gsm8k", data) == FILM.prompt(f"{examples}Question: 2+2?", None)


def test_prompts_are_written_with_the_models_template(data: Path, tmp_path: Path) -> None:
    config = HarnessConfig(tmp_path, [])
    assert model_template(config) == FILM
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(CHATML.values()))
    assert model_template(config) == CHATML
    assert model_template(replace(config, template="film")) == FILM
    film = {name: _prompt(name, data) for name in ("csqa", "narrativeqa", "gsm8k")}
    with prompting_with(CHATML):
        for name, prompt in film.items():
            chatml = _prompt(name, data)
            assert "[INST]" not in chatml
            asked = prompt.split("### Instruction:\n")[1].split(" [/INST]")
            assert CHATML.without_context.split("{instruction}")[1].join(asked) in chatml
    assert _prompt("csqa", data) == film["csqa"]


def _received(
    config: HarnessConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], dict[str, BenchmarkScore]]:
    """Return the ids that the model receives for the first prompt, and the scores."""
    received: list[list[int]] = []
    generate = HFLM._model_generate

    def recorded(self: HFLM, context: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        received.append(context[0].tolist())
        return generate(self, context, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(HFLM, "_model_generate", recorded)
        scores, _ = run_benchmarks(config)
    return received[0], scores


@pytest.mark.parametrize(("name", "model"), [("film", "tiny_model"), (BASE, "own_model")])
def test_a_long_input_loses_its_middle_before_the_template_is_applied(
    name: str,
    model: str,
    data: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder: Path = request.getfixturevalue(model)
    config = HarnessConfig(folder, ["trec"], data, template=name)
    template = model_template(config)
    ids, scores = _received(config, monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (row,) = ROWS["trec"]
    asked = f"Determine the type of the question below. Follow the examples.\n{row['input']}"
    message = template.wording.message(asked, row["context"])
    before, behind = template.prompt_text("\0").split("\0")
    text = before + message[:1000]
    head = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    tail = tokenizer.encode(message[-900:] + behind)
    # All of the template, the input's start and its end; the window is full but for a few tokens.
    assert scores["trec"].samples == 1
    assert LONGEST - 64 - 3 <= len(ids) <= LONGEST - 64
    assert ids[: len(head) - 3] == head[:-3]
    assert ids[3 - len(tail) :] == tail[3:]
    # What is left of the input is half of its start and half of its end, to the token.
    text = tokenizer.decode(ids)
    kept = text[text.index("What is number 0?") :]
    numbers = [int(number) for number in re.findall(r"What is number (\d+)\?", kept)]
    (gap,) = [place for place, step in enumerate(np.diff(numbers)) if step != 1]
    assert numbers[0] == 0
    assert numbers[-1] == 599
    assert abs((gap + 1) - (len(numbers) - gap - 1)) < 10

    # The control: without a window the harness cuts on the left, and the begin is gone.
    monkeypatch.setattr(harness_run, "_window", lambda model, task: None)
    monkeypatch.setattr(BothEndsLM, "tok_batch_encode", HFLM.tok_batch_encode)
    cut_left, _ = _received(config, monkeypatch)
    assert len(cut_left) == LONGEST - 64
    assert cut_left[: len(head) - 3] != head[:-3]


def test_the_wording_of_a_users_message(own_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(own_model, folder)
    plain = HarnessConfig(folder, [], wording="plain")
    assert model_template(plain).wording == WORDINGS["plain"]
    assert model_template(replace(plain, wording="film")).wording == FILM.wording
    (folder / TEMPLATE_FILE).write_text(json.dumps(FILM.values()))
    with pytest.raises(InputError, match=r"--wording plain: template film of .* of its own"):
        model_template(plain)
    with pytest.raises(InputError, match="--wording short: use film or plain"):
        HarnessConfig(folder, [], wording="short")  # type: ignore[arg-type]


def test_a_benchmark_that_the_paper_lacks_is_reported() -> None:
    mine = ModelScores("mine", {"csqa": BenchmarkScore(50, 2), "ours": BenchmarkScore(70, 2)})
    base = ModelScores("base", {"theirs": BenchmarkScore(60, 2), "ours": BenchmarkScore(65, 2)})
    rows = benchmark_table(mine, base).splitlines()[2:]
    assert rows == [
        "| csqa | 50.0 |  |  | 70.0 | 75.3 | +5.3 |",
        "| ours | 70.0 | 65.0 | +5.0 |  |  |  |",
        "| theirs |  | 60.0 |  |  |  |  |",
    ]


def test_every_benchmark_has_its_task() -> None:
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=str(TASK_FILES)).all_tasks
    for benchmark in BENCHMARKS.values():
        assert benchmark.harness_task in known
    assert {task for suite in SUITES.values() for task in suite.tasks} <= set(known)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Hugging Face checkpoint"):
        run_benchmarks(HarnessConfig(tmp_path, ["csqa"]))
