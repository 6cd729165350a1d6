"""Pairs without shared words: how many, how little they overlap, and the probes made of them."""

import json
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.associations import ASSOCIATIONS, NAMES, lexical_overlap
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.tasks import find_task, read_units
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer


@pytest.mark.parametrize(
    ("question", "evidence", "overlap"),
    [
        ("Which person has been to Rome?", "Ann lives beside the Colosseum.", 0.0),
        ("Which person has been to Rome?", "Ann was in Rome.", 1 / 1),
        ("Which person has been to Rome?", "A Roman holiday.", 0.0),  # three letters only
        ("Which person is a firefighter?", "He drags the fire hose.", 1.0),
        ("Which person plays tennis?", "She plays well.", 1 / 2),
        ("Which person is it?", "It is the person.", 0.0),  # nothing but stop words
    ],
)
def test_overlap_on_literal_cases(question: str, evidence: str, overlap: float) -> None:
    assert lexical_overlap(question, evidence) == overlap


def test_two_hundred_pairs_without_overlap() -> None:
    assert len(ASSOCIATIONS) >= 200
    assert len({pair.statement for pair in ASSOCIATIONS}) == len(ASSOCIATIONS)
    assert len(set(NAMES)) == len(NAMES) >= 20
    for pair in ASSOCIATIONS:
        assert pair.target in pair.question
        stated = [pair.statement.format(name=name) for name in NAMES]
        clean = [lexical_overlap(pair.question, statement) == 0.0 for statement in stated]
        assert sum(clean) >= len(NAMES) - 2, pair  # Yolanda is not asked for with Auckland


def test_published_pieces_overlap_in_full(pieces: Path) -> None:
    """The negative control: VaL's questions quote the evidence."""
    units = read_units(pieces, find_task("document"))[:500]
    overlaps = [lexical_overlap(unit.piece, unit.text) for unit in units]
    assert sum(overlaps) / len(overlaps) > 0.99


def test_probes(pieces: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = BuildConfig(task="association", context_tokens=4000, positions=20, sets=3)
    assert build_probes(pieces, tmp_path, config, tokenizer, FILM) == (60, 0)
    pairs = {pair.question: pair for pair in ASSOCIATIONS}
    asked = set()
    for line in (tmp_path / "association.jsonl").read_text().splitlines():
        probe = json.loads(line)
        assert 0.8 * 4000 < 1 + len(tokenizer.encode(probe["prompt"])) <= 4000
        context, question = probe["prompt"].split("### Context:\n")[1].split("\n\n### Instruction")
        pair = pairs[question.removeprefix(":\n").removesuffix(" [/INST]")]
        units = context.split("\n")
        assert len(units) == probe["units"]
        assert units[probe["position_id"]] == pair.statement.format(name=probe["completion"])
        assert context.count(probe["completion"]) == 1
        assert lexical_overlap(pair.question, units[probe["position_id"]]) == 0.0
        assert pair.target.lower() not in context.lower()
        asked.add(pair)
    assert len(asked) > 30


def test_pieces_that_hold_every_name_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = [{"sentence": f"{n} {' '.join(NAMES)}.", "piece": f"{n} {NAMES[0]}"} for n in range(50)]
    (tmp_path / "document_sentences.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = BuildConfig(task="association", context_tokens=1000, sets=1)
    with pytest.raises(InputError, match="every association's name"):
        build_probes(tmp_path, tmp_path / "out", config, tokenizer, FILM)
