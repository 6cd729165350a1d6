"""Chat records are drawn evenly, whole, and the same in every run."""

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.data.packing.encoding.samples import read_samples
from megatron_in2.errors import InputError
from megatron_in2.shards import Shard
from megatron_in2.synthesis.config import InstructionsConfig, InstructionWording
from megatron_in2.synthesis.instructions import InstructionStage, instruction_records
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer


def _file(path: Path, records: list[dict]) -> InstructionsConfig:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return InstructionsConfig(source="files", paths=[str(path)])


def _draw(
    config: InstructionsConfig, tokenizer: Tokenizer, wanted: int, shard: Shard | None = None
) -> tuple[list[dict], Rejects]:
    rejects = Rejects(io.StringIO())
    records = partial(instruction_records, config)
    stage = InstructionStage(config, shard or Shard(), tokenizer, FILM, 60, 1, records)
    return [json.loads(sample.line) for sample in stage.samples(wanted, rejects)], rejects


def _orca(number: int) -> dict:
    return {"system_prompt": "", "question": f"{number} + 1?", "response": f"{number + 1}"}


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def test_a_question_becomes_an_instruction_without_context(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """In the wording of FILM, as the trainer reads it; conversations stay conversations."""
    records = [{**_orca(1), "system_prompt": "Be brief."}, _orca(2), {"messages": CHAT}]
    drawn, _ = _draw(_file(tmp_path / "x.jsonl", records), tokenizer, 5)
    assert [record["kind"] for record in drawn] == ["instruction"] * 3
    assert [(record["question"], record["answer"]) for record in drawn[:2]] == [
        ("Be brief.\n\n1 + 1?", "2"),
        ("2 + 1?", "3"),
    ]
    assert drawn[2] == {"id": drawn[2]["id"], "kind": "instruction", "messages": CHAT}
    lines = tmp_path / "drawn.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in drawn))
    prompts = [sample.parts[1].text for _, sample in read_samples(lines, FILM)]
    assert prompts[1] == (
        "[INST] Below is a user instruction. Write a response for the instruction.\n\n"
        "### Instruction:\n2 + 1? [/INST]"
    )
    assert prompts[2] == "[INST] Hi [/INST]"


@pytest.mark.parametrize("wording", ["film", "chat"])
def test_lengths_are_those_of_the_encoded_samples(
    tmp_path: Path, tokenizer: Tokenizer, wording: InstructionWording
) -> None:
    records = [{**_orca(1), "system_prompt": "Be brief."}, _orca(2), {"messages": CHAT}]
    config = replace(_file(tmp_path / "x.jsonl", records), wording=wording)
    found = partial(instruction_records, config)
    stage = InstructionStage(config, Shard(), tokenizer, FILM, 60, 1, found)
    finished = list(stage.samples(5, Rejects(io.StringIO())))
    lines = tmp_path / "drawn.jsonl"
    lines.write_text("".join(sample.line for sample in finished))
    encoder = SampleEncoder(tokenizer)
    encoded = [len(encoder.encode(sample).tokens) for _, sample in read_samples(lines, FILM)]
    assert encoded == [sample.tokens for sample in finished]


def test_both_forms_become_messages_for_chat(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [{**_orca(1), "system_prompt": "Be brief."}, {"messages": CHAT}]
    config = replace(_file(tmp_path / "x.jsonl", records), wording="chat")
    drawn, _ = _draw(config, tokenizer, 5)
    assert [len(record["messages"]) for record in drawn] == [3, 2]
    assert drawn[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert drawn[1] == {"id": drawn[1]["id"], "kind": "instruction", "messages": CHAT}


def test_the_draw_is_even_and_repeats(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = _file(tmp_path / "x.jsonl", [_orca(number) for number in range(400)])
    drawn, _ = _draw(config, tokenizer, 100)
    assert drawn == _draw(config, tokenizer, 100)[0]
    numbers = [int(record["question"].split()[0]) for record in drawn]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 100
    assert 30 <= sum(number < 200 for number in numbers) <= 70


def test_shards_draw_different_records(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = _file(tmp_path / "x.jsonl", [_orca(number) for number in range(100)])
    parts = [_draw(config, tokenizer, 100, Shard(i, 2))[0] for i in range(2)]
    ids = [{record["id"] for record in part} for part in parts]
    assert len(ids[0] | ids[1]) == 100
    assert not ids[0] & ids[1]


def test_what_cannot_be_used_is_listed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [
        _orca(1),
        _orca(1),
        {**_orca(2), "response": " "},
        {**_orca(3), "response": "x " * 99},
    ]
    drawn, rejects = _draw(_file(tmp_path / "x.jsonl", records), tokenizer, 10)
    assert len(drawn) == 1
    assert rejects.counts == {
        "instruction: exact duplicate": 1,
        "instruction: empty turn": 1,
        "instruction: too long": 1,
    }


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"question": "x"}, ":1: no field 'response'.*instructions.response_field"),
        ({"question": "x", "response": 5}, ":1: .*holds int, not text"),
        ({"messages": [{"role": "user", "content": "x"}]}, ":1: .*not a conversation"),
        ({"messages": "x"}, ":1: .*not a conversation"),
        ({"messages": []}, ":1: .*not a conversation"),
    ],
)
def test_bad_records_are_named(
    tmp_path: Path, tokenizer: Tokenizer, record: dict, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        _draw(_file(tmp_path / "x.jsonl", [record]), tokenizer, 10)
