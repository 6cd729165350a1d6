"""From sample files to a packed dataset: literal tokens, masks, borders, determinism."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_in2.data.packed.dataset import PackedDataset, Row
from megatron_in2.data.packed.manifest import PARTS, part_path
from megatron_in2.errors import InputError
from megatron_in2.records import id_hash
from megatron_in2.tokenizers.base import Tokenizer
from tests.data.conftest import Pack, WriteSamples, text_sample

CONTEXT_PROMPT = (
    "[INST] Below is a context and an instruction. Based on the information provided in the "
    "context, write a response for the instruction.\n\n### Context:\n{context}\n\n"
    "### Instruction:\n{question} [/INST]"
)


def _sequences(row: Row) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, mask) of each sample of a row, its padding cut off."""
    starts = np.cumsum([0, *row.lengths[:-1]])
    return [
        (row.tokens[start : start + size], row.loss_mask[start : start + size])
        for start, size in zip(starts, row.records["length"], strict=True)
        if size
    ]


def _bytes(prefix: Path) -> list[bytes]:
    return [part_path(prefix, part).read_bytes() for part in PARTS]


def test_literal_tokens_and_exactly_the_answer_is_learnt(
    pack: Pack, write_samples: WriteSamples, tokenizer: Tokenizer
) -> None:
    context, question = "Paris is in France.\nRome is not.", "Where is Paris?"
    path = write_samples([text_sample(0, context, question, "In France.")])
    row = pack(path, seq_length=128)[0]
    ((tokens, mask),) = _sequences(row)
    prompt = CONTEXT_PROMPT.format(context=context, question=question)
    assert tokenizer.decode(tokens[mask == 0]) == prompt
    trained = [tokenizer.piece(index) for index in tokens[mask == 1]]
    assert trained == ["▁In", "▁France", ".", "</s>"]
    assert tokens[:4].tolist() == [1, 733, 16289, 28793]  # <s> ▁[ INST ]
    assert tokens[-4:].tolist() == [560, 4843, 28723, 2]
    assert (np.diff(mask.astype(int)) == 1).sum() == 1
    assert row.loss_mask[len(tokens) :].sum() == 0


def test_without_context_the_published_short_prompt_is_used(
    pack: Pack, write_samples: WriteSamples, tokenizer: Tokenizer
) -> None:
    row = pack(write_samples([text_sample(0, None, "Say hi.", "hi")]), seq_length=64)[0]
    ((tokens, mask),) = _sequences(row)
    assert tokenizer.decode(tokens[mask == 0]) == (
        "[INST] Below is a user instruction. Write a response for the instruction.\n\n"
        "### Instruction:\nSay hi. [/INST]"
    )
    assert tokens[mask == 1].tolist() == [*tokenizer.encode("hi"), 2]


def test_chat_and_parts_learn_what_they_say(
    pack: Pack, write_samples: WriteSamples, tokenizer: Tokenizer
) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two.", "train": False},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "Four."},
    ]
    parts = [
        {"text": "[INST] 2+2? [/INST]", "learn": False},
        {"text": "5", "learn": False},
        {"text": "No, 4.", "learn": True},
    ]
    path = write_samples([{"id": "chat", "messages": chat}, {"id": "parts", "parts": parts}])
    row = pack(path, seq_length=128)[0]
    encode = tokenizer.encode
    expected = {
        id_hash("chat"): (
            [
                *[1, *encode("[INST] Be brief.\n\nOne? [/INST]"), *encode("Two."), 2],
                *encode("[INST] Three? [/INST]"),
            ],
            [*encode("Four."), 2],
        ),
        id_hash("parts"): (
            [1, *encode("[INST] 2+2? [/INST]"), *encode("5")],
            [*encode("No, 4."), 2],
        ),
    }
    for (tokens, mask), record in zip(_sequences(row), row.records, strict=False):
        untrained, trained = expected[int(record["id_hash"])]
        assert tokens.tolist() == untrained + trained
        assert mask.tolist() == [0] * len(untrained) + [1] * len(trained)


def test_every_sample_is_whole_in_one_row(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]
) -> None:
    data = pack(write_samples(mixed_records))
    seen = []
    for index in range(len(data)):
        row = data[index]
        assert len(row.tokens) == len(row.loss_mask) == sum(row.lengths) == 2048
        assert all(length % 16 == 0 for length in row.lengths)
        assert set(row.records["row"]) == {index}
        for tokens, mask in _sequences(row):
            assert tokens[0] == 1
            assert mask[0] == 0
            assert (tokens[-1], mask[-1]) == (2, 1)
            assert (tokens == 1).sum() == 1
        seen += row.records["id_hash"][row.records["length"] > 0].tolist()
        assert row.loss_mask.sum() == row.records["learnt_tokens"].sum()
        assert data.rows[index]["learnt_tokens"] == row.loss_mask.sum()
        squares = (row.records["length"].astype(np.int64) ** 2).sum()
        assert data.rows[index]["attention_cost"] == squares
    assert sorted(seen) == sorted(id_hash(record["id"]) for record in mixed_records)
    manifest = data.manifest
    assert (manifest.rows, manifest.samples) == (len(data), len(mixed_records))
    assert manifest.tokens == sum(int(data[i].records["length"].sum()) for i in range(len(data)))


def test_unmodified_megatron_reads_both_files(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]
) -> None:
    data = pack(write_samples(mixed_records))
    tokens = IndexedDataset(str(data.prefix))
    masks = IndexedDataset(str(part_path(data.prefix, "_loss_mask")))
    assert tokens.index.dtype == np.uint16
    assert masks.index.dtype == np.uint8
    assert np.array_equal(tokens.sequence_lengths, masks.sequence_lengths)
    assert np.array_equal(tokens.document_indices, masks.document_indices)
    assert len(tokens.document_indices) == len(data) + 1
    total = sum(len(tokens[index]) for index in range(len(tokens)))
    assert total == len(data) * 2048
    trained = sum(int(masks[index].sum()) for index in range(len(masks)))
    assert trained == data.manifest.learnt_tokens


def test_the_output_does_not_depend_on_the_workers(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]], recipes: Path
) -> None:
    path = write_samples(mixed_records)
    one = pack(path, recipes, name="one", workers=1, validation_fraction=0.1)
    two = pack(path, recipes, name="two", workers=2, validation_fraction=0.1)
    assert _bytes(one.prefix) == _bytes(two.prefix)
    assert _bytes(part_path(one.prefix, "_valid")) == _bytes(part_path(two.prefix, "_valid"))


def test_validation_is_split_off_by_id_alone(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]
) -> None:
    def ids(data: PackedDataset) -> set[int]:
        records = np.concatenate([data[index].records for index in range(len(data))])
        return set(records["id_hash"][records["length"] > 0].tolist())

    train = pack(write_samples(mixed_records), name="a", validation_fraction=0.2)
    valid = PackedDataset(part_path(train.prefix, "_valid"))
    fewer = mixed_records[::-1][:150]
    again = pack(write_samples(fewer), name="b", validation_fraction=0.2)
    again_valid = PackedDataset(part_path(again.prefix, "_valid"))
    assert not ids(train) & ids(valid)
    assert 0.1 < len(ids(valid)) / len(mixed_records) < 0.3
    assert ids(again_valid) == ids(valid) & {id_hash(record["id"]) for record in fewer}


def test_recipes_and_their_text_give_the_same_ids(
    pack: Pack, recipes: Path, tokenizer: Tokenizer
) -> None:
    from megatron_in2.files import read_json_lines
    from megatron_in2.segment_store import SegmentStore

    store = SegmentStore(recipes.with_name("samples.jsonl.segments"))
    expected = {}
    for _, record in read_json_lines(recipes):
        context = "\n".join(store.text(segment) for segment in record["segments"])
        prompt = CONTEXT_PROMPT.format(context=context, question=record["question"])
        answer = tokenizer.encode(record["answer"])
        expected[id_hash(record["id"])] = [1, *tokenizer.encode(prompt), *answer, 2]
    data = pack(recipes)
    for index in range(len(data)):
        row = data[index]
        for (tokens, _), record in zip(_sequences(row), row.records, strict=False):
            assert tokens.tolist() == expected.pop(int(record["id_hash"]))
    assert not expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seq_length": 100}, "multiple of --pad-multiple"),
        ({"workers": 0}, "--workers"),
        ({"validation_fraction": 1.0}, "--validation-fraction"),
        ({"overlong": "keep"}, "--overlong keep"),
    ],
)
def test_unusable_settings_are_refused(
    pack: Pack, write_samples: WriteSamples, options: dict[str, Any], complaint: str
) -> None:
    path = write_samples([text_sample(0, None, "a", "b")])
    with pytest.raises(InputError, match=complaint):
        pack(path, **options)


def test_a_sample_longer_than_a_row(pack: Pack, write_samples: WriteSamples) -> None:
    records = [text_sample(0, "word " * 500, "a", "b"), text_sample(1, None, "a", "b")]
    path = write_samples(records)
    with pytest.raises(InputError, match=r"samples.jsonl:1: sample 'text/0' has \d+ tokens"):
        pack(path, seq_length=256)
    data = pack(path, seq_length=256, overlong="drop")
    assert data.manifest.samples == 1
    assert data.manifest.dropped == {"overlong": 1}


def test_workers_start_without_torch() -> None:
    code = "import megatron_in2.data.packing.preprocess, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_packing_gives_every_sample_a_row(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]
) -> None:
    data = pack(write_samples(mixed_records[:30]), no_packing=True)
    assert len(data) == data.manifest.samples == 30
    found = [int(data[index].records["id_hash"][0]) for index in range(30)]
    assert sorted(found) == sorted(id_hash(record["id"]) for record in mixed_records[:30])


def test_contexts_are_truncated_to_the_row(pack: Pack, recipes: Path) -> None:
    data = pack(recipes, seq_length=1024, overlong="truncate-context")
    assert data.manifest.notes["contexts truncated"] > 100
    dropped = data.manifest.dropped.get("overlong", 0)
    assert data.manifest.samples + dropped == 390
    assert dropped < 20
    with pytest.raises(InputError, match="truncate-context"):
        pack(recipes, name="whole", seq_length=1024)


def test_the_manifest_tells_what_was_done(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]
) -> None:
    manifest = pack(write_samples(mixed_records), template="chatml").manifest
    assert (manifest.template, manifest.design) == ("chatml", "answer")
    assert manifest.template_wording["answer_end"] == "<|im_end|>"
    assert sum(manifest.histograms["length"]) == manifest.samples == len(mixed_records)
    assert manifest.samples_by_kind["chat"] == 60
