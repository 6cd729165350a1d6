"""The whole way of byte-level BPE: stores that hold newlines, recipes, int32 rows, inspection."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megatron_in2.data.inspection.check import check_dataset
from megatron_in2.data.inspection.show import view_row
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.encoding.encode import SampleEncoder, StoreRun
from megatron_in2.data.packing.encoding.samples import SampleReader
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.pipeline import synthesize
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests.bases import write_own_template
from tests.chat_templates import NEMO

PIECES = [
    *("A sentence ends.", "Another one", "  indented", "\ttabbed!", "日本語。", "1999"),
    *("/slash", "// comment.", "\rcarriage", "'s", "\u0301mark", "two lines.\nof one", "x \ny "),
]


def write(folder: Path, tokenizer: Tokenizer, pieces: list[str]) -> SegmentStore:
    segments = list(zip(pieces, tokenizer.encode_lines(pieces), strict=True))
    return write_store(folder / "store", [("d", segments)], tokenizer)


def recipe(segments: list[int], answer: str = "A.") -> dict[str, object]:
    record = {"id": str(segments), "kind": "k", "store": "store", "segments": segments}
    return {**record, "evidence": [0], "question": "Q?", "answer": answer}


@pytest.fixture(params=["llama3", "qwen", "tekken"])
def tokenizer_of_base(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(str(request.getfixturevalue(request.param)))


def test_recipes_have_the_ids_of_their_whole_text(
    tokenizer_of_base: Tokenizer, tmp_path: Path, texts: list[str]
) -> None:
    tokenizer = tokenizer_of_base
    lines = [line for text in texts[:40] for line in text.split("\n") if line.strip()]
    store = write(tmp_path, tokenizer, [*PIECES, *lines[:60]])
    encoder, reader = SampleEncoder(tokenizer, verify_joins=1.0), SampleReader(CHATML)
    chance = random.Random(1)
    apart = 0
    for _ in range(400):
        segments = [chance.randrange(len(store)) for _ in range(chance.randint(1, 6))]
        compact = encoder.encode_compact(reader.read(recipe(segments), "x:1", tmp_path))
        apart += sum(isinstance(run, StoreRun) for run in compact.runs)
        sample = encoder.encode(reader.read(recipe(segments), "x:1", tmp_path))
        message = CHATML.wording.message("Q?", "\n".join(map(store.text, segments)))
        prompt = tokenizer.encode(CHATML.turn(message))
        answer = [*tokenizer.encode("A.<|im_end|>"), tokenizer.eos_id]
        begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        assert sample.tokens.tolist() == [*begin, *prompt, *answer]
        assert compact.length == len(sample.tokens)
        assert sample.loss_mask.nonzero()[0].tolist() == list(
            range(compact.length - len(answer), compact.length)
        )
    assert apart > 300  # most segments are taken from the store
    assert encoder.notes["recipes with segments encoded as text: a border does not join"] > 20
    assert encoder.notes["joins verified against whole texts"] == 800


def test_a_store_says_which_segments_do_not_join(
    tekken: Path, llama3: Path, tmp_path: Path
) -> None:
    for folder, slashes in ((tekken, True), (llama3, False)):
        tokenizer = load_tokenizer(str(folder))
        (tmp_path / folder.name).mkdir()
        store = write(tmp_path / folder.name, tokenizer, PIECES)
        assert store.holds_newlines
        assert store.manifest["dtype"] == ("int32" if slashes else "uint16")
        breaks = [piece for piece, is_break in zip(PIECES, store.breaks, strict=True) if is_break]
        assert breaks == (["/slash", "// comment."] if slashes else []) + ["\rcarriage"]
        size = store.joined_length(np.array([0, 1, 2]))
        assert size == store.lengths[:3].sum()  # no newline comes between


def test_a_damaged_store_is_found(tekken: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tekken))
    store = write(tmp_path, tokenizer, PIECES)
    tokens = np.memmap(store.path / "tokens.bin", np.int32, "r+")
    tokens[0] ^= 1
    tokens.flush()
    encoder = SampleEncoder(tokenizer, verify_joins=1.0)
    sample = SampleReader(CHATML).read(recipe([0, 1, 2]), "x:1", tmp_path)
    with pytest.raises(InputError, match="differ from their whole text's"):
        encoder.encode(sample)


def test_answers_that_a_whole_text_would_join_with_their_prompt_are_counted(
    llama3: Path, tmp_path: Path
) -> None:
    encoder = SampleEncoder(load_tokenizer(str(llama3)))
    reader = SampleReader(CHATML)
    for answer, counted in (("Yes.", 0), (" Yes.", 0), ("\nYes.", 1)):
        encoder.notes.clear()
        record = {"id": "a", "kind": "k", "question": "Q?", "answer": answer}
        encoder.encode(reader.read(record, "x:1", tmp_path))
        note = "answers that a whole text's ids would join with their prompt"
        assert encoder.notes == Counter({note: counted} if counted else {})


@pytest.fixture(scope="module")
def nemo(tekken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Tekken with a chat template that writes as Mistral-Nemo's."""
    return write_own_template(tekken, tmp_path_factory.mktemp("nemo"), NEMO)


@pytest.fixture(scope="module")
def rows(nemo: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes over real prose and chats, packed with a vocabulary of 131,072 ids."""
    folder = tmp_path_factory.mktemp("tekken_rows")
    synthesis = SynthesisConfig(
        corpus=CorpusConfig(paths=[str(corpus_file)], max_documents=200),
        segments=SegmentConfig(min_tokens=24),
        composition=CompositionConfig(min_tokens=100, max_tokens=480),
        mixture=MixtureConfig(fine_grained=60, integration=0, short=10),
        tokenizer_model=str(nemo),
    )
    synthesize(synthesis, folder / "samples.jsonl")
    config = PreprocessConfig(
        input=[folder / "samples.jsonl"],
        output_prefix=folder / "rows",
        tokenizer_model=str(nemo),
        seq_length=512,
        verify_joins=1.0,
        workers=2,
    )
    manifest = preprocess(config)["train"]
    assert manifest.notes["joins verified against whole texts"] == manifest.samples == 70
    return folder / "rows"


def test_rows_of_a_large_vocabulary_are_sound(rows: Path, nemo: Path) -> None:
    tokenizer = load_tokenizer(str(nemo))
    findings = check_dataset(rows, tokenizer)
    assert findings.problems == []
    assert findings.marked_spans == findings.spans == 70
    data = PackedDataset(rows)
    row = data[0]
    assert (row.tokens.dtype, data.manifest.vocab_size) == (np.int64, 131_072)
    assert row.tokens.max() > 65_535
    (view, *_) = view_row(row, data.manifest, tokenizer)
    assert view.runs[0] == ("<s>", False)
    assert view.runs[-1] == ("</s>", True)
    assert view.runs[1] == ("[INST]", False)
    assert view.runs[2][0].startswith("Below is a context and an instruction.")
    manifest = data.manifest
    assert (manifest.template, manifest.eos_id) == ("base", 2)
    assert manifest.template_object() == load_template("base", tokenizer)


def test_stated_lengths_bound_the_samples(rows: Path, nemo: Path) -> None:
    """Synthesis counts parts; borders can make a sample a token or two shorter, not longer."""
    stated = {}
    template = load_template("base", load_tokenizer(str(nemo)))
    for line in (rows.parent / "samples.jsonl").read_text().splitlines():
        record = json.loads(line)
        stated[record["id"]] = record["n_tokens"]
        assert record["template_sha256"] == template.sha256
    records = PackedDataset(rows)._samples
    assert len(records[records["length"] > 0]) == len(stated)
    assert max(stated.values()) <= 480
