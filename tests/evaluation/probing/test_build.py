"""Probes built from the published pieces: one occurrence, the asked position, the asked length."""

import json
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.endpoint_answers import user_message
from megatron_in2.evaluation.probing.tasks import TASKS, find_task, read_units
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.templates.text import InstructionTemplate
from megatron_in2.tokenizers.base import Tokenizer

TOKENS = 4000


def _probes(folder: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def built(pieces: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("probes")
    for task in ("document", "code", "database"):
        config = BuildConfig(task=task, context_tokens=TOKENS, sets=2)
        build_probes(pieces, folder, config, tokenizer, FILM)
    return folder


@pytest.mark.parametrize("name", ["document", "code", "database"])
def test_published_pieces(built: Path, pieces: Path, name: str, tokenizer: Tokenizer) -> None:
    task = find_task(name)
    units = {unit.piece: unit for unit in read_units(pieces, task)}
    before, _ = FILM.prompt("", "\0").split("\0")
    asked = 0
    for probe in _probes(built, name):
        body = probe["prompt"][len(before) :]
        context, _, question = body.rpartition("\n\n### Instruction:\n")
        assert probe["prompt"].startswith(before)
        opening, closing = task.question.split("{piece}")
        assert question.startswith(opening)
        assert question.endswith(f"{closing} [/INST]")
        unit = units[question.removeprefix(opening).removesuffix(f"{closing} [/INST]")]
        assert probe["completion"] == unit.answer
        assert context.count(unit.piece) == 1
        texts = context.split(task.separator)
        assert len(texts) == probe["units"]
        assert texts[probe["position_id"]] == unit.text
        assert 0.9 * TOKENS < 1 + len(tokenizer.encode(probe["prompt"])) <= TOKENS
        asked += 1
    assert asked > 100


def test_every_position_of_every_set_is_asked_once(built: Path) -> None:
    probes = _probes(built, "document")
    for set_id in (0, 1):
        positions = [probe["position_id"] for probe in probes if probe["set_id"] == set_id]
        (units,) = {probe["units"] for probe in probes if probe["set_id"] == set_id}
        assert positions == sorted(set(positions))
        assert len(positions) > 0.95 * units


def test_the_same_seed_gives_the_same_probes(
    built: Path, pieces: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    for seed in (1234, 7):
        config = BuildConfig(context_tokens=TOKENS, sets=2, seed=seed)
        build_probes(pieces, tmp_path, config, tokenizer, FILM)
        same = (tmp_path / "document.jsonl").read_bytes() == (built / "document.jsonl").read_bytes()
        assert same == (seed == 1234)


def _write_sentences(folder: Path, count: int, piece: str = "piece {n} of mine") -> None:
    lines = [
        json.dumps({"sentence": f"Here is piece {n} of mine.", "piece": piece.format(n=n)})
        for n in range(count)
    ]
    (folder / "document_sentences.jsonl").write_text("\n".join(lines))


def test_asked_positions_are_spread_from_end_to_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    _write_sentences(tmp_path, 200)
    for wanted in (1, 2, 5):
        config = BuildConfig(context_tokens=600, positions=wanted, sets=1)
        assert build_probes(tmp_path, tmp_path, config, tokenizer, FILM) == (wanted, 0)
        probes = _probes(tmp_path, "document")
        positions = [probe["position_id"] for probe in probes]
        last = probes[0]["units"] - 1
        expected = [last / 2] if wanted == 1 else [last * n / (wanted - 1) for n in range(wanted)]
        assert positions == pytest.approx(expected, abs=0.51)


def test_fills_of_the_window(tmp_path: Path, tokenizer: Tokenizer) -> None:
    _write_sentences(tmp_path, 200)
    config = BuildConfig(context_tokens=1000, fills=[0.25, 0.5, 1.0], positions=3, sets=2)
    assert build_probes(tmp_path, tmp_path, config, tokenizer, FILM) == (18, 0)
    contexts = []
    for name, fill in (("document-fill-25", 0.25), ("document-fill-50", 0.5), ("document", 1.0)):
        probes = _probes(tmp_path, name)
        assert {probe["fill"] for probe in probes} == {fill}
        assert {probe["context_tokens"] for probe in probes} == {int(1000 * fill)}
        longest = max(1 + len(tokenizer.encode(probe["prompt"])) for probe in probes)
        assert 0.85 * 1000 * fill < longest <= 1000 * fill
        contexts.append(probes[0]["prompt"].split("### Context:\n")[1].split("\n\n###")[0])
    assert contexts[2].startswith(contexts[1])
    assert contexts[1].startswith(contexts[0])
    for fills, message in (([0.0], "--fills 0.0: give"), ([1.5], "--fills 1.5"), ([1, 1], "twice")):
        with pytest.raises(InputError, match=message):
            BuildConfig(fills=fills)
    with pytest.raises(InputError, match="leave --units out"):
        BuildConfig(fills=[0.5], units=3)


def test_ambiguous_pieces_are_skipped(tmp_path: Path, tokenizer: Tokenizer) -> None:
    _write_sentences(tmp_path, 100, piece="piece {n}")  # "piece 1" occurs in "piece 10" too
    written, skipped = build_probes(
        tmp_path, tmp_path, BuildConfig(context_tokens=900, sets=4), tokenizer, FILM
    )
    assert skipped > 0
    probes = _probes(tmp_path, "document")
    assert len(probes) == written
    for probe in probes:
        piece = probe["completion"].removeprefix("Here is ").split(" of")[0]
        assert probe["prompt"].count(piece) == 2  # once in the context, once in the question


def test_facts_of_ones_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    facts = [
        {
            "statement": f"Box {n} is {n} cm.",
            "question": f"How wide is box {n}?",
            "answer": f"{n} cm",
        }
        for n in range(40)
    ]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    config = BuildConfig(task="facts", context_tokens=TOKENS, units=30, sets=1)
    assert build_probes(tmp_path, tmp_path, config, tokenizer, FILM) == (30, 0)
    for probe in _probes(tmp_path, "facts"):
        number = probe["completion"].split()[0]
        texts = probe["prompt"].split("### Context:\n")[1].split("\n")
        assert texts[probe["position_id"]] == f"Box {number} is {number} cm."
        assert probe["prompt"].endswith(f"How wide is box {number}? [/INST]")


def test_bad_input(tmp_path: Path, tokenizer: Tokenizer) -> None:
    _write_sentences(tmp_path, 60)
    with pytest.raises(InputError, match="60 document pieces do not fill 32000 tokens"):
        build_probes(tmp_path, tmp_path / "out", BuildConfig(), tokenizer, FILM)
    with pytest.raises(InputError, match=r"holds \d+ document units, fewer than --positions 50"):
        config = BuildConfig(context_tokens=300, positions=50)
        build_probes(tmp_path, tmp_path / "out", config, tokenizer, FILM)
    assert not list((tmp_path / "out").iterdir())
    for wrong in ({"sets": 0}, {"context_tokens": 0}, {"positions": -1}, {"units": -1}):
        (name,) = wrong
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} -?[01]: give"):
            BuildConfig(**wrong)


def test_all_tasks_are_known() -> None:
    assert {"document", "code", "database"} <= set(TASKS)


@pytest.mark.parametrize("template", [FILM, CHATML], ids=["film", "chatml"])
def test_prompts_are_the_templates(
    tmp_path: Path, tokenizer: Tokenizer, template: InstructionTemplate
) -> None:
    _write_sentences(tmp_path, 200)
    config = BuildConfig(context_tokens=600, positions=2, sets=1)
    build_probes(tmp_path, tmp_path, config, tokenizer, template)
    for probe in _probes(tmp_path, "document"):
        assert probe["template"] == template.name
        message = user_message("", probe)
        start, end = probe["user"]
        assert message == probe["prompt"][start:end]
        assert template.turn(message) == probe["prompt"]
        assert 1 + len(tokenizer.encode(probe["prompt"])) <= 600
