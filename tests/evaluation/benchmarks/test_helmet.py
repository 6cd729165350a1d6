"""HELMET's RAG: which questions, the prompt to the byte, the score, a run through the harness."""

import hashlib
import json
from pathlib import Path

import datasets
import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BenchmarkScore
from megatron_in2.evaluation.benchmarks.harness import helmet
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.harness_run import run_benchmarks
from megatron_in2.evaluation.benchmarks.prompting import prompting_with
from megatron_in2.evaluation.benchmarks.suite_run import SuiteRun
from megatron_in2.evaluation.benchmarks.truncation import Window
from megatron_in2.templates.film import FILM
from tests.evaluation.benchmarks.conftest import Oracle

LENGTH = 8192  # HELMET's shortest: 50 passages


def _row(n: int, passages: int, depth: int, **more: object) -> dict:
    """Return a row in the form of HELMET's files; the passage at ``depth`` has the answer."""
    contexts = [
        {
            "id": str(k),
            "title": f"Page {k}",
            "text": f"Answer of {n} is Word{n}." if k == depth else f"Nothing of {n} on {k}.",
            "has_answer": k == depth,
        }
        for k in range(passages)
    ]
    return {"question": f"What is {n}?", "answers": [f"Word{n}", "x y"], "ctxs": contexts, **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HELMET's ``data`` folder: 120 questions at two depths, 50 passages each."""
    folder = tmp_path_factory.mktemp("helmet")
    (folder / "kilt").mkdir()
    for source, (asked, solved) in helmet.FILES.items():
        # PopQA has ids, and one file for both; half of its questions are looked up often.
        more = [{"id": f"id{n}", "s_pop": 10 ** (n % 2 * 3 + 1)} for n in range(119)]
        more[0]["s_pop"] = 0
        more.append({"id": "id119", "s_pop": 1000})
        extra = more if source == "popqa" else [{}] * 120
        rows = [_row(n, 50, depth, **extra[n]) for n in range(120) for depth in (0, 40)]
        start = 0 if source == "popqa" else 500
        examples = [_row(start + n, 3, 1, **extra[n]) for n in range(20) for _ in range(2)]
        for name, lines in ((asked.format(k=50), rows), (solved, examples)):
            (folder / "kilt" / name).write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    return folder


def _reference_examples(path: Path, name: str, key: str, without: str | None) -> list[dict]:
    """Choose a question's two solved examples as HELMET does, with the library it uses."""
    rows = datasets.Dataset.from_list(list(map(json.loads, path.read_text().splitlines())))
    if without is not None:
        rows = rows.filter(lambda row: row[key] != without and row["s_pop"] < 1000)
    seed = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2**31
    chosen: dict[str, dict] = {}
    for row in rows.shuffle(seed=seed):
        chosen.setdefault(row[key], row)
    return list(chosen.values())[:2]


def _documents(row: dict) -> str:
    return "\n\n".join(f"Document (Title: {c['title']}): {c['text']}" for c in row["ctxs"])


@pytest.mark.parametrize("source", ["nq", "popqa"])
def test_the_prompt_to_the_byte(source: str, data: Path) -> None:
    rows = helmet.dataset(source, LENGTH, str(data), version=1.0)["test"]
    path = data / "kilt" / helmet.FILES[source][1]
    for row in (rows[0], rows[7]):
        number = row["question"].split()[-1].rstrip("?")
        own = f"id{number}" if source == "popqa" else None
        key = "id" if source == "popqa" else "question"
        first, second = _reference_examples(path, own or row["question"], key, own)
        solved = "".join(
            f"{_documents(each)}\n\nQuestion: {each['question']}\nAnswer: {each['answers'][0]}\n\n"
            for each in (first, second)
        )
        documents = row["context"]
        assert documents.startswith("Document (Title: Page 0): ")
        assert documents.count("\n\n") == 49
        assert helmet.prompt(row) == (
            "Use the given documents to write a concise and short answer to the question. Write "
            "your answer in the following format:\nAnswer: [answer]\n\n"
            f"{solved}{documents}\n\nQuestion: {row['question']}\nAnswer:"
        )


def test_which_questions_are_asked(data: Path) -> None:
    rows = helmet.dataset("nq", LENGTH, str(data))["test"]
    assert len(rows) == 200  # 100 of 120, at two depths
    assert len(set(rows["question"])) == 100
    assert rows[0]["examples"] == rows[1]["examples"]  # the same at each depth
    rare = helmet.dataset("popqa", LENGTH, str(data))["test"]
    assert len(rare) == 120  # 60 that fewer than 1,000 look up
    assert all(int(row["question"].split()[-1][:-1]) % 2 == 0 for row in rare)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris.", 1.0),
        ("the  city of PARIS", 1.0),
        (" Answer: Paris\nQuestion: What", 1.0),
        ("\nParis", 1.0),  # all 20 tokens count
        (" parish", 1.0),  # it is a match of texts
        (" St Denis", 0.0),
        ("", 0.0),
        (" Hague", 1.0),  # without the article
        (" end day", 0.0),
    ],
)
def test_the_score(text: str, expected: float) -> None:
    row = {"answers": ["Paris", "The Hague", "End of the Day"]}
    assert helmet.score(row, [text]) == {"score": expected}


def test_a_context_that_is_too_long_loses_its_end(tiny_model: Path, data: Path) -> None:
    row = helmet.dataset("nq", LENGTH, str(data))["test"][0]
    whole, oracle = helmet.prompt(row), Oracle(tiny_model, str)
    most = len(oracle.tok_encode(whole)) - 300
    with prompting_with(FILM, Window(oracle.tokenizer, oracle.tok_encode, most)):
        cut = helmet.prompt(row)
    assert most - 3 <= len(oracle.tok_encode(cut)) <= most
    question = f"\n\nQuestion: {row['question']}\nAnswer:"
    assert cut.endswith(question)
    assert whole.startswith(cut.removesuffix(question))


def test_a_run_through_the_harness(tiny_model: Path, data: Path) -> None:
    config = HarnessConfig(tiny_model, ["helmet_rag"], data, lengths=[LENGTH], limit=3)
    run = SuiteRun(config, Oracle(tiny_model, lambda row: row["answers"][0]))
    run.run("helmet_rag")
    assert run.not_run == {}
    assert run.scores["helmet_rag_8192"].score == 100.0
    assert run.scores["helmet_rag_8192"].samples == 12


def test_a_real_model_and_what_is_missing(tiny_model: Path, data: Path) -> None:
    config = HarnessConfig(tiny_model, ["helmet_rag"], data, lengths=[4096, LENGTH], limit=1)
    scores, not_run = run_benchmarks(config)
    # It is cut to the model's window; random weights know no answer.
    assert scores["helmet_rag_8192"] == BenchmarkScore(0.0, 4)
    assert "HELMET has 8192, 16384" in not_run["helmet_rag_4096/helmet_nq"]
    assert not_run["helmet_rag_4096"] == "no mean: 4 of its 4 tasks were not run"
    with pytest.raises(InputError, match="give --data DIR"):
        helmet.dataset("nq", LENGTH)
    with pytest.raises(InputError, match=r"k220_dep6\.jsonl does not exist"):
        helmet.dataset("nq", 32768, str(data))
