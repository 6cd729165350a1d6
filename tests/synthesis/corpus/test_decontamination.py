"""Shared runs of words are found, and only those."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.errors import InputError
from megatron_in2.records import Document
from megatron_in2.synthesis.config import DecontaminationConfig
from megatron_in2.synthesis.corpus.decontamination import (
    EvaluationTexts,
    read_evaluation_texts,
    without_overlap,
)
from megatron_in2.synthesis.rejects import Rejects

TEN = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        (f"Zero. {TEN.title()}, eleven!", TEN),
        (TEN.replace(" ", "\n"), TEN),
        (TEN.replace("five", "fife"), None),
        (TEN.removesuffix(" ten"), None),
        ("", None),
    ],
)
def test_ten_shared_words_are_an_overlap(text: str, shared: str | None) -> None:
    assert EvaluationTexts([f"before {TEN} after"], 10).overlap(text) == shared


@given(
    evaluation=st.lists(st.sampled_from("abc"), max_size=30),
    text=st.lists(st.sampled_from("abc"), max_size=30),
    ngram=st.integers(1, 6),
)
def test_it_agrees_with_a_plain_search(evaluation: list, text: list, ngram: int) -> None:
    def runs(words: list[str]) -> list[str]:
        return [" ".join(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]

    known = set(runs(evaluation))
    expected = next((run for run in runs(text) if run in known), None)
    assert EvaluationTexts([" ".join(evaluation)], ngram).overlap(" ".join(text)) == expected


def test_a_run_does_not_cross_from_one_text_to_the_next() -> None:
    texts = EvaluationTexts(["a b c", "d e f"], 4)
    assert len(texts) == 0
    assert texts.overlap("a b c d e f") is None


def test_files_of_all_kinds_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha beta gamma")
    record = {"id": 1, "nested": {"texts": ["delta epsilon zeta"]}}
    (tmp_path / "b.jsonl").write_text(json.dumps(record))
    paths = [str(tmp_path / name) for name in ("a.txt", "b.jsonl")]
    texts = read_evaluation_texts(DecontaminationConfig(paths, ngram=3))
    assert texts is not None
    assert texts.overlap("x delta epsilon zeta") == "delta epsilon zeta"
    assert texts.overlap("Alpha, beta: gamma") == "alpha beta gamma"
    assert read_evaluation_texts(DecontaminationConfig()) is None


def test_overlapping_documents_are_dropped_and_listed() -> None:
    stream = io.StringIO()
    rejects = Rejects(stream)
    documents = [Document("a", TEN), Document("b", "something else entirely")]
    kept = list(without_overlap(documents, EvaluationTexts([TEN], 10), rejects))
    assert [document.id for document in kept] == ["b"]
    assert rejects.counts == {"document: overlaps an evaluation text": 1}
    assert json.loads(stream.getvalue())["words"] == TEN


def test_files_without_a_single_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("too short")
    with pytest.raises(InputError, match="no text of 10 words or more"):
        read_evaluation_texts(DecontaminationConfig([str(tmp_path / "a.txt")]))
    with pytest.raises(InputError, match=r"absent\.txt does not exist"):
        read_evaluation_texts(DecontaminationConfig([str(tmp_path / "absent.txt")]))


def test_published_probe_pieces_are_found_in_a_corpus(pieces: Path) -> None:
    path = pieces / "document_sentences.jsonl"
    texts = read_evaluation_texts(DecontaminationConfig([str(path)]))
    assert texts is not None
    sentence = json.loads(path.read_text().splitlines()[100])["sentence"]
    assert texts.overlap(f"Yesterday they said: {sentence} And so on.") is not None
    assert texts.overlap("The quick brown fox jumps over the lazy dog again and again.") is None
