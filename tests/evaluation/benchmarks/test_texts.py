"""Texts of benchmarks are written as decontamination reads them."""

import json
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.texts import write_evaluation_texts
from megatron_in2.synthesis.config import DecontaminationConfig
from megatron_in2.synthesis.corpus.decontamination import read_evaluation_texts

CONTEXT = "Ann and her brother ran along the river until the old mill came into view at last."
ROWS = {
    "narrativeqa": [{"context": CONTEXT, "question": "Who ran?", "answers": ["Ann"]}] * 2,
    "gsm8k": [{"question": "What is two and two?", "answer": "It is 4.\n#### 4"}],
    "gsm8k.train": [{"question": "What is one and two?", "answer": "It is 3.\n#### 3"}] * 9,
}


def test_texts_of_benchmarks_keep_documents_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "texts.jsonl"
    counts, missing = write_evaluation_texts(["narrativeqa", "gsm8k", "csqa"], tmp_path, output)
    assert counts == {"narrativeqa": 2, "gsm8k": 1}
    assert list(missing) == ["csqa"]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["task"] for line in lines] == ["narrativeqa", "narrativeqa", "gsm8k"]
    assert {CONTEXT, "Who ran?", "Ann"} <= set(lines[0]["texts"])
    assert "one and two" not in output.read_text()  # examples are no evaluation rows
    assert "Below is a context" not in output.read_text()  # nor is our template

    evaluation = read_evaluation_texts(DecontaminationConfig([str(output)]))
    assert evaluation is not None
    assert evaluation.overlap(f"He said: {CONTEXT}") is not None
    assert evaluation.overlap("Nobody ran along any river on that day, said a miller.") is None


def test_nothing_is_written_where_no_data_can_be_had(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data of csqa cannot be had: reach the hub"):
        write_evaluation_texts(["csqa"], tmp_path, tmp_path / "texts.jsonl")
    assert not (tmp_path / "texts.jsonl").exists()
