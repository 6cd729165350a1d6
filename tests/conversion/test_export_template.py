"""The template goes from a dataset through checkpoint and export to what asks the model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_in2.checkpoint.folder import (
    describe_checkpoint,
    mark_complete,
    read_datasets,
    read_template,
)
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.conversion.tokenizer_files import write_tokenizer_files
from megatron_in2.data.packed.blend import BlendPart
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.files import read_json
from megatron_in2.templates.base import Turn
from megatron_in2.templates.ids import part_ids
from megatron_in2.templates.load import load_template, read_template_beside
from megatron_in2.templates.text import InstructionTemplate
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests.bases import VERSIONS, write_mistral, write_own_template
from tests.chat_templates import LLAMA_31, MISTRAL_V1
from tests.conftest import ROOT

KEPT = ROOT / "tests" / "version1"
OWN = {
    "name": "own",
    "with_context": "### User\nRead:\n{context}\nThen: {instruction}\n### Model\n",
    "without_context": "### User\n{instruction}\n### Model\n",
    "chat": "### User\n{instruction}\n### Model\n",
    "chat_with_system": "### System\n{system}\n### User\n{instruction}\n### Model\n",
    "answer_end": "\n### End",
}
Messages = list[dict[str, str]]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def one_turn(template: InstructionTemplate, context: str | None) -> tuple[dict, Messages]:
    record = {"id": str(context), "kind": "k", "question": "Who ran?", "answer": " Ann."}
    prompt = template.prompt("Who ran?", context)
    start, end = template.user_span(prompt)
    asked = [message("user", prompt[start:end]), message("assistant", " Ann.")]
    return {**record, "context": context}, asked


def conversation(number: int, system: str | None, turns: int) -> tuple[dict, Messages]:
    messages = [] if system is None else [message("system", system)]
    for turn in range(turns):
        messages.append(message("user", f"  What is {turn} + {number}?\n"))
        messages.append(message("assistant", f"It is {turn + number}. 🙂"))
    return {"id": f"chat {number} {system}", "messages": messages}, messages


@pytest.fixture(scope="module", params=["film", "chatml", "own"])
def template(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> InstructionTemplate:
    if request.param != "own":
        return load_template(request.param)
    path = tmp_path_factory.mktemp("template") / "own.yaml"
    path.write_text(yaml.safe_dump(OWN))
    return load_template(str(path))


@pytest.fixture(scope="module")
def packed(
    template: InstructionTemplate,
    tmp_path_factory: pytest.TempPathFactory,
    small_tokenizer: Tokenizer,
) -> tuple[Path, list[Messages]]:
    """A dataset of one sample a row, and the conversation that each sample is."""
    folder = tmp_path_factory.mktemp("packed")
    pairs = [
        one_turn(template, "Bob sat.\nAnn ran.\n"),
        one_turn(template, None),
        conversation(1, None, 1),
        conversation(2, "Be brief.", 1),
        conversation(3, None, 3),
        conversation(4, "Be kind.\n", 3),
    ]
    (folder / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record, _ in pairs))
    (folder / "template.json").write_text(json.dumps(template.values()))
    config = PreprocessConfig(
        input=[folder / "x.jsonl"],
        output_prefix=folder / "rows",
        tokenizer_model=str(small_tokenizer.path),
        seq_length=512,
        template=str(folder / "template.json"),
        no_packing=True,
    )
    preprocess(config)
    return folder / "rows", [messages for _, messages in pairs]


@pytest.fixture(scope="module")
def checkpoint(
    packed: tuple[Path, list[Messages]],
    tmp_path_factory: pytest.TempPathFactory,
    small_tokenizer: Tokenizer,
) -> Path:
    """A kept checkpoint's tensors, as if trained on a blend of this dataset with itself."""
    prefix, _ = packed
    step = tmp_path_factory.mktemp("run") / "iter_0000002"
    shutil.copytree(KEPT / "checkpoints" / step.name, step)
    config = yaml.safe_load((step / "config.yaml").read_text())
    for name in ("dataset.json", "complete.json"):
        (step / name).unlink()
    manifest = PackedDataset(prefix).manifest
    blend = [BlendPart(0.7, prefix, manifest), BlendPart(0.3, Path("moved"), manifest)]
    (step / "tokenizer.model").unlink()
    tokenizer = load_tokenizer(str(KEPT / "tokenizer.model"))
    describe_checkpoint(step, config, None, tokenizer, blend)
    mark_complete(step, 2, tokenizer)
    return step


@pytest.fixture(scope="module")
def export(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "huggingface"
    export_checkpoint(checkpoint, folder)
    return folder


def trained_ids(prefix: Path) -> list[list[int]]:
    """The ids of each sample, as its row holds them."""
    data = PackedDataset(prefix)
    rows = (data[index] for index in range(len(data)))
    return [row.tokens[: int(row.records[0]["length"])].tolist() for row in rows]


def rendered_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, return_dict=False))


def test_the_exports_chat_template_gives_the_packed_ids(
    packed: tuple[Path, list[Messages]],
    template: InstructionTemplate,
    small_tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    prefix, conversations = packed
    trained = sorted(trained_ids(prefix))
    write_tokenizer_files(tmp_path, small_tokenizer, template, 512)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert sorted(rendered_ids(tokenizer, messages) for messages in conversations) == trained
    # The negative control: another wording gives other ids to every conversation.
    other = replace(
        template, chat="Q {instruction} A", chat_with_system="Q {system}{instruction} A"
    )
    write_tokenizer_files(tmp_path, small_tokenizer, other, 512)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert not any(rendered_ids(tokenizer, messages) in trained for messages in conversations)


def test_a_blend_keeps_every_manifest_and_the_template(
    checkpoint: Path, packed: tuple[Path, list[Messages]], template: InstructionTemplate
) -> None:
    manifest = read_json(packed[0].with_suffix(".json"))
    assert read_datasets(checkpoint) == [
        {"weight": 0.7, "prefix": str(packed[0]), "manifest": manifest},
        {"weight": 0.3, "prefix": "moved", "manifest": manifest},
    ]
    assert read_template(checkpoint) == template


def test_the_export_carries_the_template_and_its_card_is_true(
    export: Path, template: InstructionTemplate
) -> None:
    assert read_template_beside(export) == template
    assert load_template(str(export)) == template
    tokenizer = AutoTokenizer.from_pretrained(export)
    card = (export / "README.md").read_text()
    assert f"template `{template.name}`" in card
    assert "gives the token ids of training" in card
    said = card.split("One turn is written:\n\n```text\n")[1].split("\n```")[0]
    messages = [message("user", "..."), message("assistant", "...")]
    assert said == tokenizer.apply_chat_template(messages, tokenize=False)
    form = card.split("message of this form:\n\n```text\n")[1].split("\n```")[0]
    asked = form.replace("{context}", "C").replace("{instruction}", "I")
    prompt = tokenizer.apply_chat_template([message("user", asked)], tokenize=False)
    assert prompt == "<s>" + template.prompt("I", "C")
    assert "## Dataset 1 of 2" in card
    assert "moved, weight 0.3" in card


@pytest.mark.parametrize("name", ["film", "chatml"])
def test_an_old_checkpoint_exports_the_template_of_its_only_manifest(
    name: str, tmp_path: Path
) -> None:
    shutil.copytree(KEPT / "checkpoints", tmp_path / "run")
    kept = KEPT / "data" / ("in2.json" if name == "film" else "chatml.json")
    shutil.copyfile(kept, tmp_path / "run" / "iter_0000002" / "dataset.json")
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert load_template(str(tmp_path / "out")) == load_template(name)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    if name == "chatml":
        trained = trained_ids(KEPT / "data" / "chatml")
        lines = (KEPT / "chats.jsonl").read_text().splitlines()
        chats: list[dict[str, Any]] = [json.loads(line) for line in lines]
        plain = [[message(m["role"], m["content"]) for m in chat["messages"]] for chat in chats]
        assert any(rendered_ids(tokenizer, messages) in trained for messages in plain)
    else:
        prompt = tokenizer.apply_chat_template([message("user", "Hi")], tokenize=False)
        assert prompt == "<s>[INST] Hi [/INST]"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Messages]]:
    """A base of the kept tokenizer with Mistral v0.2's chat template, and rows packed with it."""
    folder = tmp_path_factory.mktemp("own")
    base = write_mistral(folder / "base", KEPT / "tokenizer.model", MISTRAL_V1)
    pairs = [conversation(1, None, 1), conversation(2, "Be brief.", 2)]
    (folder / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record, _ in pairs))
    preprocess(PreprocessConfig([folder / "x.jsonl"], folder / "rows", str(base), 512))
    return base, folder / "rows", [messages for _, messages in pairs]


def test_a_bases_own_template_is_exported(
    own: tuple[Path, Path, list[Messages]], tmp_path: Path
) -> None:
    base, prefix, conversations = own
    step = tmp_path / "run" / "iter_0000002"
    shutil.copytree(KEPT / "checkpoints" / step.name, step)
    for name in ("dataset.json", "complete.json", "tokenizer.model"):
        (step / name).unlink()
    config = yaml.safe_load((step / "config.yaml").read_text())
    tokenizer, manifest = load_tokenizer(str(base)), PackedDataset(prefix).manifest
    describe_checkpoint(step, config, None, tokenizer, [BlendPart(1.0, prefix, manifest)])
    mark_complete(step, 2, tokenizer)
    export_checkpoint(step, tmp_path / "out")
    template = load_template(str(base))
    assert read_template(step) == read_template_beside(tmp_path / "out") == template
    data = PackedDataset(prefix)
    lengths = [int(length) for length in data[0].records["length"] if length]
    packed, start = [], 0
    for length, padded in zip(lengths, -(-np.array(lengths) // 16) * 16, strict=True):
        packed.append(data[0].tokens[start : start + length].tolist())
        start += padded
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert sorted(rendered_ids(exported, each) for each in conversations) == sorted(packed)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<s>[INST] ... [/INST] ...</s>" in card
    assert 'date_string="26 Jul 2024"' in card


@pytest.mark.parametrize("version", ["v1", "v3", "v7"])
def test_a_sentencepiece_base_is_exported_with_the_ids_of_its_own_template(
    version: str, tmp_path: Path
) -> None:
    base = write_mistral(tmp_path / "base", *VERSIONS[version])
    tokenizer, template = load_tokenizer(str(base)), load_template(str(base))
    (tmp_path / "out").mkdir()
    write_tokenizer_files(tmp_path / "out", tokenizer, template, 512)
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    for _, messages in (conversation(1, None, 1), conversation(2, None, 3)):
        turns = [
            Turn(asked["content"], said["content"])
            for asked, said in zip(messages[::2], messages[1::2], strict=True)
        ]
        expected = part_ids(template.parts(None, turns), tokenizer)
        assert rendered_ids(exported, messages) == expected


def test_a_bases_files_are_exported_as_they_are(llama3: Path, tmp_path: Path) -> None:
    base = write_own_template(llama3, tmp_path / "base", LLAMA_31)
    (tmp_path / "out").mkdir()
    write_tokenizer_files(tmp_path / "out", load_tokenizer(str(base)), load_template(str(base)), 9)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in base.iterdir()}
    assert set(written) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
