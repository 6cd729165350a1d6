"""A whole synthesis run over real prose: lengths, evidence, determinism."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.data.encode import SampleEncoder
from megatron_in2.data.samples import read_samples
from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.pipeline import synthesize
from megatron_in2.templates import FILM
from megatron_in2.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def config(corpus_file: Path) -> SynthesisConfig:
    return SynthesisConfig(
        corpus=CorpusConfig(paths=[str(corpus_file)]),
        segments=SegmentConfig(min_tokens=48),
        composition=CompositionConfig(min_tokens=256, max_tokens=2000),
        mixture=MixtureConfig(fine_grained=400, integration=40, short=40),
    )


@pytest.fixture(scope="module")
def output(config: SynthesisConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthesis") / "samples.jsonl"
    synthesize(config, path)
    return path


def _records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_counts_and_report(output: Path) -> None:
    records = _records(output)
    kinds = [record["kind"] for record in records]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "fine_grained": 400,
        "integration": 40,
        "short": 40,
    }
    assert len({record["id"] for record in records}) == len(records)
    report = json.loads(output.with_name("samples.jsonl.report.json").read_text())
    assert sum(report["evidence_position_histogram"]) >= 400
    assert output.with_name("samples.jsonl.report.png").stat().st_size > 0


def test_stated_lengths_are_the_encoded_ones(output: Path, tokenizer: Tokenizer) -> None:
    encoder = SampleEncoder(tokenizer)
    for record, (_, sample) in zip(_records(output), read_samples(output, FILM), strict=True):
        length = len(encoder.encode(sample).tokens)
        assert length == record["n_tokens"]
        assert length <= 2000


def test_the_evidence_is_in_its_slots_and_fillers_are_others(output: Path) -> None:
    store = SegmentStore(output.with_name("samples.jsonl.segments"))
    for record in _records(output):
        evidence = [record["segments"][slot] for slot in record["evidence"]]
        own = {int(store.documents[segment]) for segment in evidence}
        assert len(own) == 1
        fillers = set(record["segments"]) - set(evidence)
        assert len(record["segments"]) == len(set(record["segments"]))
        assert not own & {int(store.documents[segment]) for segment in fillers}
        text = " ".join("\n".join(store.text(segment) for segment in sorted(evidence)).split())
        if record["kind"] == "fine_grained":
            assert record["answer"] in text


def test_lengths_and_positions_are_even(output: Path) -> None:
    records = [record for record in _records(output) if record["kind"] == "fine_grained"]
    positions = [(r["evidence"][0] + 0.5) / len(r["segments"]) for r in records]
    lengths = [r["n_tokens"] for r in records]
    # The 0.1 % critical value of Kolmogorov-Smirnov is 1.95 / sqrt(n).
    limit = 1.95 / len(records) ** 0.5
    # Positions lie on grids, and a context stops short of its target by up to a segment.
    assert _ks_distance(positions, 0.0, 1.0) < limit + 0.02
    assert _ks_distance(lengths, 256, 2000) < limit + 0.03


def _ks_distance(values: list[float], low: float, high: float) -> float:
    ordered = sorted((value - low) / (high - low) for value in values)
    count = len(ordered)
    return max(
        max((rank + 1) / count - value, value - rank / count) for rank, value in enumerate(ordered)
    )


def test_the_same_seed_gives_the_same_bytes(
    config: SynthesisConfig, output: Path, tmp_path: Path
) -> None:
    again = tmp_path / "samples.jsonl"
    synthesize(config, again)
    assert again.read_bytes() == output.read_bytes()
    other = tmp_path / "other.jsonl"
    synthesize(replace(config, seed=7), other)
    assert other.read_bytes() != output.read_bytes()


def test_materialized_texts_encode_to_the_same_ids(
    config: SynthesisConfig, output: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    texts = tmp_path / "texts.jsonl"
    synthesize(config, texts, materialize=True)
    encoder = SampleEncoder(tokenizer)
    pairs = zip(read_samples(output, FILM), read_samples(texts, FILM), strict=True)
    for (_, recipe), (_, text) in pairs:
        first, second = encoder.encode(recipe), encoder.encode(text)
        assert first.tokens.tolist() == second.tokens.tolist()
        assert first.loss_mask.tolist() == second.loss_mask.tolist()


def test_an_output_that_stands_is_kept(config: SynthesisConfig, output: Path) -> None:
    before = output.read_bytes()
    with pytest.raises(InputError, match="already exists"):
        synthesize(config, output)
    assert output.read_bytes() == before


def test_a_corpus_too_small_is_refused(config: SynthesisConfig, tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text("One short text that fills no context at all.")
    tiny = replace(config, corpus=CorpusConfig(paths=[str(tmp_path / "tiny.txt")]))
    with pytest.raises(InputError, match="less than one context"):
        synthesize(tiny, tmp_path / "x.jsonl")
    (tmp_path / "empty.txt").write_text(" \n")
    empty = replace(config, corpus=CorpusConfig(paths=[str(tmp_path / "empty.txt")]))
    with pytest.raises(InputError, match="holds no text"):
        synthesize(empty, tmp_path / "x.jsonl")
    greedy = replace(config, mixture=MixtureConfig(fine_grained=10**6))
    with pytest.raises(InputError, match=r"mixture\.fine_grained asks for 1000000"):
        synthesize(greedy, tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
