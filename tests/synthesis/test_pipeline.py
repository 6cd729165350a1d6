"""A whole synthesis run over real prose: lengths, evidence, determinism."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.data.packing.encoding.samples import read_samples
from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore
from megatron_in2.shards import Shard
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    DecontaminationConfig,
    FilterConfig,
    InstructionsConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.pipeline import RunOptions, synthesize
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer


@pytest.fixture(scope="module")
def config(small_corpus: Path) -> SynthesisConfig:
    return SynthesisConfig(
        corpus=CorpusConfig(paths=[str(small_corpus)]),
        segments=SegmentConfig(min_tokens=48),
        composition=CompositionConfig(min_tokens=256, max_tokens=2000),
        mixture=MixtureConfig(fine_grained=400, integration=40, short=40),
        filters=FilterConfig(max_copied_words=0),
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
    assert sum(report["evidence_positions"]["counts"]) == 440
    assert sum(report["long_sample_lengths"]["counts"]) == 440
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
        if record["kind"] == "short":
            continue
        fillers = set(record["segments"]) - set(evidence)
        assert len(record["segments"]) == len(set(record["segments"]))
        assert not own & {int(store.documents[segment]) for segment in fillers}
        text = " ".join("\n".join(store.text(segment) for segment in sorted(evidence)).split())
        if record["kind"] == "fine_grained":
            assert record["answer"] in text


def test_short_samples_have_the_text_of_their_question_as_context(output: Path) -> None:
    store = SegmentStore(output.with_name("samples.jsonl.segments"))
    documents = np.asarray(store.documents)
    short = [record for record in _records(output) if record["kind"] == "short"]
    types = Counter(record["id"].split("/")[1] for record in short)
    assert types == {"fine_grained": 36, "integration": 4}  # as the long ones: 400 to 40
    for record in short:
        own = np.flatnonzero(documents == documents[record["segments"][0]])
        if record["segments"] != own.tolist():  # too long: what fits around the evidence
            assert store.lengths[own].sum() + len(own) + 40 > 2000
            assert set(np.diff(record["segments"])) <= {1}
        if "integration" in record["id"]:
            assert len(record["evidence"]) == len(record["segments"]) > 1
        else:
            (slot,) = record["evidence"]
            text = " ".join(store.text(record["segments"][slot]).split())
            assert record["answer"] in text
    long = {record["id"] for record in _records(output)} - {record["id"] for record in short}
    assert not long & {record["id"].removeprefix("short/") for record in short}
    # Spread over the run, so that a part of it holds its part of them.
    places = [i for i, record in enumerate(_records(output)) if record in short]
    assert max(np.diff(places)) <= 13


def test_every_document_is_asked_about_before_any_is_asked_about_twice(output: Path) -> None:
    store = SegmentStore(output.with_name("samples.jsonl.segments"))
    walk = EvidenceWalk(store, 2000, 1)
    evidence = list(walk.candidates("fine_grained"))
    documents = [each.id.split("/")[1] for each in evidence]
    count = len(set(documents))
    assert 200 < count < len(evidence) == len(store) == len({each.id for each in evidence})
    assert len(set(documents[:count])) == count
    first = np.array([int(each.id.split("/")[2]) for each in evidence[:count]])
    assert (first > 0).sum() > 20  # a random segment of each, not the first one
    assert [e.id for e in EvidenceWalk(store, 2000, 1).candidates("fine_grained")] == [
        e.id for e in evidence
    ]


def test_lengths_and_positions_are_even(output: Path) -> None:
    report = json.loads(output.with_name("samples.jsonl.report.json").read_text())
    for name in ("long_sample_lengths", "evidence_positions"):
        assert report[name]["ks_p"] > 0.01
        assert report[name]["chi_square_p"] > 0.01


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
    synthesize(config, texts, RunOptions(materialize=True))
    encoder = SampleEncoder(tokenizer)
    pairs = zip(read_samples(output, FILM), read_samples(texts, FILM), strict=True)
    for (_, recipe), (_, text) in pairs:
        first, second = encoder.encode(recipe), encoder.encode(text)
        assert first.tokens.tolist() == second.tokens.tolist()
        assert first.loss_mask.tolist() == second.loss_mask.tolist()


def test_an_existing_output_is_kept(config: SynthesisConfig, output: Path) -> None:
    before = output.read_bytes()
    with pytest.raises(InputError, match="already exists"):
        synthesize(config, output)
    assert output.read_bytes() == before


def test_a_mistyped_corpus_deletes_nothing(
    config: SynthesisConfig, output: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "samples.jsonl"
    for suffix in ("", ".report.json", ".rejects.jsonl", ".dropped_documents.jsonl"):
        copy.with_name(copy.name + suffix).write_bytes(
            output.with_name(output.name + suffix).read_bytes()
        )
    shutil.copytree(f"{output}.segments", f"{copy}.segments")

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = contents()
    (tmp_path / "tiny.txt").write_text("One short text that fills no context at all.")
    for path in ("mistyped.jsonl", "tiny.txt"):
        mistyped = replace(config, corpus=CorpusConfig(paths=[str(tmp_path / path)]))
        with pytest.raises(InputError):
            synthesize(mistyped, copy, RunOptions(overwrite=True))
        after = contents()
        assert {name: after[name] for name in before} == before


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
    with pytest.raises(InputError, match=r"mixture\.short ask for 1115385"):
        synthesize(greedy, tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_workers_change_nothing(config: SynthesisConfig, output: Path, tmp_path: Path) -> None:
    again = tmp_path / "samples.jsonl"
    synthesize(config, again, RunOptions(workers=2))
    for suffix in ("", ".rejects.jsonl", ".report.json", ".segments/tokens.bin"):
        name = f"samples.jsonl{suffix}"
        assert (again.parent / name).read_bytes() == (output.parent / name).read_bytes()


def test_shards_concatenate_to_one_whole(
    config: SynthesisConfig, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    whole, count = tmp_path / "all.jsonl", 3
    tallies = [
        synthesize(config, tmp_path / "x.jsonl", RunOptions(shard=Shard(index, count)))
        for index in range(count)
    ]
    assert tallies[1].output == tmp_path / "x.00001-of-00003.jsonl"
    whole.write_bytes(b"".join(tally.output.read_bytes() for tally in tallies))
    records = _records(whole)
    assert len({record["id"] for record in records}) == 480
    assert sum(record["kind"] == "integration" for record in records) == 40
    encoder = SampleEncoder(tokenizer)  # every line finds its own store
    for record, (_, sample) in zip(records, read_samples(whole, FILM), strict=True):
        assert len(encoder.encode(sample).tokens) == record["n_tokens"]
    stores = [
        SegmentStore(tally.output.with_name(f"{tally.output.name}.segments")) for tally in tallies
    ]
    documents = [{store.document_id(i) for i in range(len(store))} for store in stores]
    assert not documents[0] & documents[1]
    assert all(len(found) > 50 for found in documents)


def test_documents_of_an_evaluation_set_are_neither_evidence_nor_fillers(
    config: SynthesisConfig, texts: list[str], tmp_path: Path
) -> None:
    chosen = [text for text in texts if len(text.split()) > 100][:5]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(
        "".join(json.dumps({"x": " ".join(text.split()[20:60])}) + "\n" for text in chosen)
    )
    output = tmp_path / "x.jsonl"
    synthesize(replace(config, decontamination=DecontaminationConfig([str(evaluation)])), output)
    stored = (tmp_path / "x.jsonl.segments" / "text.jsonl").read_text()
    listed = [json.loads(line) for line in (tmp_path / "x.jsonl.dropped_documents.jsonl").open()]
    contaminated = [line for line in listed if "evaluation" in line["reason"]]
    assert len(contaminated) >= 5
    for line in contaminated:
        assert line["id"] not in stored
    report = json.loads((tmp_path / "x.jsonl.report.json").read_text())
    assert report["dropped_documents"]["document: overlaps an evaluation text"] == len(contaminated)


def test_hard_fillers_share_more_words_with_the_evidence(
    config: SynthesisConfig, output: Path, tmp_path: Path
) -> None:
    hard = tmp_path / "hard.jsonl"
    composition = replace(config.composition, fillers="hard")
    synthesize(replace(config, composition=composition), hard, RunOptions(workers=2))
    assert _mean_overlap(hard) > 1.5 * _mean_overlap(output)
    report = json.loads((tmp_path / "hard.jsonl.report.json").read_text())
    assert report["evidence_positions"]["ks_p"] > 0.01
    assert report["long_sample_lengths"]["ks_p"] > 0.01


def _mean_overlap(path: Path) -> float:
    """Return the share of the evidence's long words that the fillers hold too, at best."""
    store = SegmentStore(path.with_name(f"{path.name}.segments"))
    shares = []
    for record in _records(path)[:100]:
        words = [
            {w for w in store.text(s).lower().split() if len(w) > 5} for s in record["segments"]
        ]
        own = words.pop(record["evidence"][0])
        if own and words:
            shares.append(max(len(own & other) / len(own) for other in words))
    return sum(shares) / len(shares)


def test_a_finished_store_is_used_again(config: SynthesisConfig, tmp_path: Path) -> None:
    output = tmp_path / "x.jsonl"
    synthesize(config, output)
    store = tmp_path / "x.jsonl.segments" / "store.json"
    before, samples = store.stat().st_mtime_ns, output.read_bytes()
    output.unlink()
    synthesize(config, output)
    assert store.stat().st_mtime_ns == before
    assert output.read_bytes() == samples
    finer = replace(config, segments=SegmentConfig(min_tokens=40))
    synthesize(finer, output, RunOptions(overwrite=True))
    assert store.stat().st_mtime_ns != before


def test_instructions_join_the_mixture(config: SynthesisConfig, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        "".join(
            json.dumps({"system_prompt": "Be brief.", "question": f"{i} + 1?", "response": f"{i}."})
            + "\n"
            for i in range(50)
        )
    )
    mixture = MixtureConfig(
        total=40, fine_grained=0.5, integration=0.125, short=0.125, instruction=0.25
    )
    changed = replace(
        config, mixture=mixture, instructions=InstructionsConfig(source="files", paths=[str(chats)])
    )
    tally = synthesize(changed, tmp_path / "x.jsonl")
    assert tally.made == {"fine_grained": 20, "integration": 5, "short": 5, "instruction": 10}
    samples = [sample for _, sample in read_samples(tmp_path / "x.jsonl", FILM)]
    assert [sample.kind for sample in samples].count("instruction") == 10
