"""Files of the experiment, read back through the tokenizer and the packed dataset."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.files import atomic_file, read_json_lines
from megatron_in2.lab.seed.materials import (
    pack_samples,
    write_judged,
    write_probes,
    write_samples,
    write_tokenizer,
)
from megatron_in2.lab.study import load_study
from megatron_in2.lab.worlds.attempt_samples import ATTEMPT_WORLD, AttemptMeasure
from megatron_in2.lab.worlds.fact_samples import FACT_WORLD, FactDataset, FactMeasure
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


@pytest.mark.parametrize(
    ("study", "name"),
    [
        ("placement", "short"),
        ("placement", "long-in2"),
        ("placement", "long-ends"),
        ("dose", "more10"),
        ("repeats", "repeated"),
        ("fillers", "long-random"),
        ("isolation", "medium-joined"),
    ],
)
def test_only_answers_are_trained_on(
    tmp_path: Path, words: Tokenizer, study: str, name: str
) -> None:
    dataset = replace(load_study(study).datasets[name], samples=24)
    packed = _packed(tmp_path, words, dataset)
    trained = [words.piece(index) for row in packed for index in row.tokens[row.loss_mask == 1]]
    answers = [piece.lstrip("▁") for piece in trained if piece != "</s>"]
    assert set(answers) <= set(VALUES)
    assert trained.count("</s>") == 24
    lengths = [int(length) for row in packed for length in row.records["length"] if length]
    assert max(lengths) <= dataset.sample_tokens
    if name == "long-ends":
        assert len(answers) <= 24 * dataset.questions
    elif name == "short":
        assert dataset.shortest <= min(lengths) < 80 < max(lengths)
    else:
        assert len(answers) == 24 * dataset.questions * dataset.joined
        assert len(set(lengths)) == 1


def test_long_answers_have_most_of_the_loss_by_token(tmp_path: Path, words: Tokenizer) -> None:
    dataset = replace(load_study("loss").datasets["long"], samples=60)
    packed = _packed(tmp_path, words, dataset)
    trained = [int(count) for row in packed for count in row.records["learnt_tokens"] if count]
    short = [count for count in trained if count == 2]  # the value and the end of the sample
    assert 15 < len(short) < 45
    assert sum(short) < 0.02 * sum(trained)


@pytest.mark.parametrize(
    ("name", "has_plan", "longest"),
    [("kept", True, 12), ("erased", False, 12), ("direct", False, 3)],
)
def test_prompts_are_erased_by_the_packing(
    tmp_path: Path, name: str, has_plan: bool, longest: int
) -> None:
    study = load_study("prompt_erasing")
    write_tokenizer(tmp_path / "words.model", study.world.words)
    dataset = replace(study.datasets[name], samples=30)
    write_samples(tmp_path / "x.jsonl", study.world, dataset, "seed")
    line = pack_samples(dataset, tmp_path / "x.jsonl", tmp_path / "x", tmp_path / "words.model")
    assert line.startswith("x: 30 samples, 3 rows of 960, trained on ")
    tokenizer = load_tokenizer(str(tmp_path / "words.model"))
    packed = PackedDataset(tmp_path / "x")
    used = [row.tokens[: row.records["length"].sum()] for row in packed]
    pieces = [tokenizer.piece(index).lstrip("▁") for ids in used for index in ids]
    assert "<unk>" not in pieces
    assert pieces.count("plan") == 30 * has_plan
    assert pieces.count("answer") == 30
    trained = [int(count) for row in packed for count in row.records["learnt_tokens"] if count]
    assert max(trained) == longest  # the end of the sequence is one of them
    assert min(trained) == 3


def test_what_is_judged_of_replies(tmp_path: Path) -> None:
    measure = AttemptMeasure("title", contexts=1)
    write_probes(tmp_path / "probes.jsonl", ATTEMPT_WORLD, measure, "seed")
    with atomic_file(tmp_path / "replies.jsonl") as stream:
        for number in range(BINS):
            stream.write(f'{{"samples": ["a{number} yes"], "answer_tokens": 2}}\n')
    write_judged(measure, *(tmp_path / f"{each}.jsonl" for each in ("probes", "replies", "judged")))
    judged = [line for _, line in read_json_lines(tmp_path / "judged.jsonl")]
    assert judged == [{"samples": [f"a{number}"], "answer_tokens": 2} for number in range(BINS)]


def _packed(folder: Path, words: Tokenizer, dataset: FactDataset) -> PackedDataset:
    write_samples(folder / "x.jsonl", FACT_WORLD, dataset, "seed")
    pack_samples(dataset, folder / "x.jsonl", folder / "x", Path(words.path))
    return PackedDataset(folder / "x")


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
