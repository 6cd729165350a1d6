"""BABILong, GraphWalks and LongBench v2 on copies of their repositories, in the hub's form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.suite_run import SuiteRun
from tests.evaluation.benchmarks.conftest import Oracle

LENGTH = 4096


def _card(folder: Path, configs: str) -> None:
    """Write a repository's README.md, which tells ``datasets`` what its files are."""
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A folder with the three, two rows of each part."""
    babilong = tmp_path / "babilong"
    tasks = [f"qa{number}" for number in range(1, 6)]
    splits = "".join(f"  - split: {task}\n    path: data/{task}/4k.json\n" for task in tasks)
    _card(babilong, f"- config_name: 4k\n  data_files:\n{splits}")
    for task in tasks:
        rows = [
            {
                "target": place,
                "input": f"Long ago. {name} went to the {place}. It rained.",
                "question": f"Where is {name} ({task})?",
            }
            for name, place in (("Mary", "kitchen"), ("Ann", "garden"))
        ]
        (babilong / "data" / task).mkdir(parents=True)
        (babilong / "data" / task / "4k.json").write_text(json.dumps(rows))

    graphs = tmp_path / "graphwalks"
    _card(graphs, "- config_name: default\n  data_files: '*.parquet'\n")
    walks = [
        {
            "prompt": f"Graph: a{n} -> b{n}. Find the parents of b{n}.",
            "answer_nodes": [f"a{n}", f"c{n}"],
            "prompt_chars": 40,
            "problem_type": "parents",
        }
        for n in range(2)
    ]
    table = pyarrow.Table.from_pylist(walks)
    pyarrow.parquet.write_table(table, graphs / "graphwalks_128k_and_shorter.parquet")

    long = tmp_path / "longbench2"
    import lm_eval.tasks

    files = (Path(lm_eval.tasks.__file__).parent / "longbench2").glob("*.yaml")
    lines = [line for file in files for line in file.read_text().splitlines()]
    names = [line.split(": ")[1] for line in lines if line.startswith("dataset_name")]
    assert len(names) == 20
    configs = [
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/*.jsonl\n"
        for name in names
    ]
    _card(long, "".join(configs))
    for name in names:
        row = {
            "context": f"A text of {name}.",
            "question": "What is it?",
            "choices": ["this", "that", "both", "none"],
            "answer": 2,
        }
        (long / name).mkdir()
        (long / name / "train.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    return tmp_path


def _run(
    suite: str, model: Path, data: Path | None, answer: Callable[[dict[str, Any]], str]
) -> tuple[SuiteRun, list[str]]:
    oracle = Oracle(model, answer)
    run = SuiteRun(HarnessConfig(model, [suite], data, lengths=[LENGTH]), oracle)
    run.run(suite)
    return run, oracle.prompts


def test_babilong(tiny_model: Path, copies: Path) -> None:
    run, prompts = _run("babilong", tiny_model, copies, lambda row: f"The {row['target']}.")
    assert run.not_run == {}
    assert set(run.scores) == {
        *(f"babilong_4096/babilong_qa{n}" for n in range(1, 6)),
        "babilong_4096",
    }
    assert run.scores["babilong_4096"].score == 100.0
    assert run.scores["babilong_4096"].samples == 10
    assert prompts[0].startswith("I will give you context with the facts about positions")
    assert "Charlie travelled to balcony." in prompts[0]  # one of the two solved examples
    assert "Mary went to the kitchen. It rained.\nWhere is Mary (qa1)?" in prompts[0]
    half, _ = _run("babilong", tiny_model, copies, lambda row: "The kitchen.")
    assert half.scores["babilong_4096"].score == 50.0


def test_graphwalks(tiny_model: Path, copies: Path) -> None:
    def answer(row: dict[str, Any]) -> str:
        return f"I think.\nFinal Answer: [{row['answer_nodes'][0]}]"

    run, prompts = _run("graphwalks", tiny_model, copies, answer)
    assert run.scores["graphwalks"].samples == 2
    assert run.scores["graphwalks"].score == pytest.approx(200 / 3)  # one node of two, none wrong
    assert prompts[0] == "Graph: a0 -> b0. Find the parents of b0."
    wrong, _ = _run("graphwalks", tiny_model, copies, lambda row: "a0")  # not in the form asked
    assert wrong.scores["graphwalks"].score == 0.0


def test_longbench2(tiny_model: Path, copies: Path) -> None:
    run, prompts = _run("longbench2", tiny_model, copies, lambda row: "C")
    assert run.scores["longbench2"].samples == 40
    assert run.scores["longbench2"].score == 100.0
    assert len(prompts) == 160  # four choices of each
    assert "(C) both\n(D) none\n\nAnswer:" in prompts[0]
    wrong, _ = _run("longbench2", tiny_model, copies, lambda row: "D")
    assert wrong.scores["longbench2"].score == 0.0


def test_no_copy(tiny_model: Path, tmp_path: Path) -> None:
    run, _ = _run("graphwalks", tiny_model, tmp_path, lambda row: "")
    assert run.scores == {}
    assert "hf download openai/graphwalks --repo-type dataset" in run.not_run["graphwalks"]
