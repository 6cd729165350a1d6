"""Which steps of a checkpoint folder count."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.checkpoint.folder import (
    CheckpointState,
    complete_steps,
    describe_checkpoint,
    mark_complete,
    read_config,
    read_datasets,
    read_model_config,
    read_state,
    read_template,
    read_tokenizer,
    remove_older,
    resolve_checkpoint,
    step_folder,
)
from megatron_in2.errors import InputError
from megatron_in2.files import read_json
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import ROOT

STATE = CheckpointState(
    step=3,
    consumed_rows=12,
    epoch=1,
    global_batch_rows=4,
    seed=5,
    tokenizer_sha256="t",
    dataset_sha256="d",
    loss=1.5,
)
CONFIG = {"model": asdict(ModelConfig(num_layers=2))}


@pytest.fixture
def folder(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    """Steps 1 and 20 complete, 3 incomplete, 100 begun."""
    for number in (1, 20, 3):
        step = step_folder(tmp_path, number)
        step.mkdir()
        describe_checkpoint(step, CONFIG, STATE, small_tokenizer.path)
        if number != 3:
            mark_complete(step, number)
    step_folder(tmp_path, 100).mkdir()
    return tmp_path


def test_only_complete_steps_count(folder: Path) -> None:
    assert [step.name for step in complete_steps(folder)] == ["iter_0000001", "iter_0000020"]
    assert resolve_checkpoint(folder).name == "iter_0000020"
    assert resolve_checkpoint(folder, "1").name == "iter_0000001"
    assert resolve_checkpoint(step_folder(folder, 1)) == step_folder(folder, 1)


def test_incomplete_and_absent_steps_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"iter_0000003 is incomplete \(no complete\.json\)"):
        resolve_checkpoint(step_folder(folder, 3))
    with pytest.raises(InputError, match="iter_0000100 holds no complete checkpoint"):
        resolve_checkpoint(folder, "100")
    with pytest.raises(InputError, match="nowhere holds no complete checkpoint"):
        resolve_checkpoint(tmp_path / "nowhere")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    with pytest.raises(InputError, match="Hugging Face's form: import it with in2 convert hf-to"):
        resolve_checkpoint(base)


def test_state_and_config_come_back(folder: Path) -> None:
    step = step_folder(folder, 20)
    assert read_state(step) == STATE
    assert read_model_config(step) == ModelConfig(num_layers=2)
    assert read_json(step / "complete.json")["step"] == 20


def test_weights_alone_have_no_state(folder: Path) -> None:
    step = step_folder(folder, 20)
    (step / "state.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(InputError, match="fields differ"):
        read_state(step)
    (step / "state.json").unlink()
    with pytest.raises(InputError, match=r"holds weights only: use it as checkpoint\.init_from"):
        read_state(step)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "is not readable"),
        ("data: {}", "has no model section"),
        ("model: {layers: 3}", "section model: .*layers"),
    ],
)
def test_unusable_config(folder: Path, text: str, message: str) -> None:
    step = step_folder(folder, 20)
    (step / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_model_config(step)
    (step / "config.yaml").unlink()
    with pytest.raises(InputError, match="is not readable"):
        read_config(step)


def test_tokenizer_must_be_the_saved_one(folder: Path, tokenizer: Tokenizer) -> None:
    step = step_folder(folder, 20)
    assert read_tokenizer(step).vocab_size == 1003
    (step / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    with pytest.raises(InputError, match="is not the tokenizer that"):
        read_tokenizer(step)


def test_an_older_steps_only_manifest_is_read(tmp_path: Path) -> None:
    step = shutil.copytree(ROOT / "tests/version1/checkpoints/iter_0000002", tmp_path / "step")
    (dataset,) = read_datasets(step)
    assert (dataset["weight"], dataset["manifest"]["template"]) == (1.0, "film")
    assert dataset["prefix"] == read_config(step)["data"]["train"]
    assert read_template(step) == FILM


def test_a_step_that_was_not_trained_has_no_template(folder: Path) -> None:
    step = step_folder(folder, 20)
    assert (read_datasets(step), read_template(step)) == ([], None)


def test_older_steps_are_removed_never_the_newest(folder: Path) -> None:
    remove_older(folder, keep_last=0)
    assert len(list(folder.iterdir())) == 4
    remove_older(folder, keep_last=1)
    assert sorted(path.name for path in folder.iterdir()) == ["iter_0000020", "iter_0000100"]
