"""Files of the experiment, read back through the tokenizer and the packed dataset."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.files import read_json_lines
from megatron_in2.lab.materials import write_probes, write_samples, write_tokenizer
from megatron_in2.lab.study import load_study
from megatron_in2.lab.worlds.fact_samples import FACT_WORLD, FactMeasure
from megatron_in2.lab.worlds.facts import VALUES, WORDS
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

BINS, TOKENS = 16, 512


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("words") / "words.model"
    write_tokenizer(path, WORDS)
    return load_tokenizer(str(path))


def test_every_word_is_one_piece(words: Tokenizer) -> None:
    ids = [words.encode(word) for word in WORDS]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == len(WORDS) == words.vocab_size - 3


@pytest.mark.parametrize("name", ["short", "long-in2", "long-ends"])
def test_only_answers_are_trained_on(tmp_path: Path, words: Tokenizer, name: str) -> None:
    dataset = replace(load_study("placement").datasets[name], samples=24)
    write_samples(tmp_path / "x.jsonl", FACT_WORLD, dataset, "seed")
    preprocess(
        PreprocessConfig(
            input=[tmp_path / "x.jsonl"],
            output_prefix=tmp_path / "x",
            tokenizer_model=str(words.path),
            seq_length=dataset.row_tokens,
            pad_multiple=1,
        )
    )
    packed = PackedDataset(tmp_path / "x")
    trained = [words.piece(index) for row in packed for index in row.tokens[row.loss_mask == 1]]
    answers = [piece.lstrip("▁") for piece in trained if piece != "</s>"]
    assert set(answers) <= set(VALUES)
    assert trained.count("</s>") == 24
    lengths = [int(length) for row in packed for length in row.records["length"] if length]
    assert max(lengths) <= dataset.tokens
    if name == "long-in2":
        assert set(lengths) == {dataset.tokens}
        assert len(answers) == 24 * dataset.questions
    if name == "short":
        assert dataset.shortest <= min(lengths) < 80 < max(lengths)


def test_probes_ask_about_their_bin_and_take_the_whole_length(
    tmp_path: Path, words: Tokenizer
) -> None:
    measure = FactMeasure("title", contexts=20)
    write_probes(tmp_path / "probes.jsonl", FACT_WORLD, measure, "seed")
    probes = [probe for _, probe in read_json_lines(tmp_path / "probes.jsonl")]
    assert len(probes) == 20 * BINS
    misplaced = 0
    for probe in probes:
        prompt = words.encode(probe["prompt"])
        assert 1 + len(prompt) + len(words.encode(probe["completion"])) + 1 == TOKENS
        context, _, question = probe["prompt"].rpartition(" question ")
        statement = f"fact {question} {probe['completion']} ."
        assert context.count(statement) == context.count(f"fact {question} ") == 1
        start = len(context[: context.index(statement)].split()) / len(context.split())
        misplaced += int(start * BINS) != probe["position_id"]
    assert misplaced < 0.25 * len(probes)  # the nearest fact may start in a neighbouring bin


def test_the_seed_decides(tmp_path: Path) -> None:
    for path, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        write_probes(tmp_path / path, FACT_WORLD, FactMeasure("title", contexts=2), seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
