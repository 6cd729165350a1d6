"""Every family, both ways: tensors, configs and logits; and what verification must not pass."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.checkpoint.folder import read_model_config
from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.logits import megatron_logits, transformers_logits
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.conversion.verify import TOLERANCE, fixed_tokens, verify_conversion
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.tokenizers.base import Tokenizer
from tests.families import FAMILIES, ONE_GROUP, POSITIONS, save_model

Tensors = dict[str, torch.Tensor]
Converted = dict[tuple[str, int], tuple[Path, Path, Path]]
CASES = [(name, form) for name in FAMILIES for form in (4, 5)]
OLD_FIELDS = {"rope_theta", "rope_scaling"}
LAYER = "model.layers.1.self_attn"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Converted:
    """Of each family and form of its config: the source, the step, and the export; read only."""
    folder, found = tmp_path_factory.mktemp("families"), {}
    for place, (name, form) in enumerate(CASES):
        here = folder / str(place)
        dtype = torch.bfloat16 if form == 4 else torch.float32
        source = save_model(name, here / "hf", small_tokenizer.path, dtype, form)
        generation = '{"eos_token_id": [2, 7],\n   "temperature": 0.6, "top_p": 0.9}'
        (source / "generation_config.json").write_text(generation)
        step = import_checkpoint(source, here / "megatron").step
        export_checkpoint(step, here / "back")
        found[name, form] = (source, step, here / "back")
    return found


def assert_same_tensors(a: Path, b: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_tensor_and_every_field_comes_back(
    name: str, form: int, converted: Converted
) -> None:
    source, _, back = converted[name, form]
    assert_same_tensors(source, back)
    before, after = (read_json(folder / "config.json") for folder in (source, back))
    if form == 5:  # transformers 4 ignores rope_parameters: it gets fields of its own beside them
        rotary = dict(before["rope_parameters"])
        added = {field: after.pop(field) for field in OLD_FIELDS if field in after}
        assert added.pop("rope_theta") == rotary.pop("rope_theta")
        assert added.get("rope_scaling", {"rope_type": "default"}) == rotary
    assert after == before
    kept = [(folder / "generation_config.json").read_text() for folder in (source, back)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_equal_at_every_position(name: str, converted: Converted) -> None:
    _, step, back = converted[name, 5]
    result = verify_conversion(step, back)
    config = read_model_config(step)
    assert result.last_position >= POSITIONS - 1 >= 7 * config.rope_scaling.original_positions
    assert result.largest_logit > 3
    assert result.largest_difference <= TOLERANCE * result.largest_logit


@pytest.mark.parametrize("name", ONE_GROUP)
def test_a_single_group_goes_and_comes_back(
    name: str, tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    source = save_model(name, tmp_path / "hf", small_tokenizer.path, num_key_value_heads=1)
    step = import_checkpoint(source, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    assert verify_conversion(step, source).largest_logit > 3


def test_transformers_5_reads_the_whole_model_alike(converted: Converted) -> None:
    """Fields of transformers 4 beside its own change nothing; every key finds its place."""
    for source, _, back in converted.values():
        before, after = (AutoConfig.from_pretrained(folder).to_dict() for folder in (source, back))
        assert before | {"_name_or_path": ""} == after | {"_name_or_path": ""}
    _, info = AutoModelForCausalLM.from_pretrained(
        converted["qwen 3 tied yarn", 5][2], output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_transformers_4_computes_the_same(tmp_path: Path, converted: Converted) -> None:
    python = os.environ.get("TRANSFORMERS4_PYTHON")
    if not python:
        pytest.skip("TRANSFORMERS4_PYTHON names no interpreter with transformers 4")
    folders, count = [back for _, _, back in converted.values()], 200
    # The control: a source in the newer form alone is another model to transformers 4.
    newer = Path(shutil.copytree(converted["llama 3.1", 5][2], tmp_path / "newer"))
    fields = read_json(newer / "config.json")
    write_json(
        newer / "config.json", {name: fields[name] for name in fields if name not in OLD_FIELDS}
    )
    folders.append(newer)
    script = Path(__file__).with_name("transformers4_logits.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [python, script, tmp_path / "logits", str(count), *folders], check=True, env=environment
    )
    older = load_file(tmp_path / "logits")
    for place, folder in enumerate(folders):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logits = model(torch.arange(1, count + 1).unsqueeze(0)).logits[0]
        assert logits.abs().max() > 3
        is_equal = (older[str(place)] - logits).abs().max() <= 1e-4
        assert is_equal == (folder != newer), folder


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistral", {"sliding_window": 64}, "sliding_window=64: it is shorter"),
        ("mistral", {"model_type": "mixtral", "num_local_experts": 8}, "num_local_experts is set"),
        ("llama 3.1", {"hidden_act": "gelu"}, "hidden_act='gelu': only silu"),
        ("llama 3.1", {"vision_config": {"depth": 2}}, "vision_config is set"),
        ("llama 3.1", {"rope_parameters": {"rope_type": "linear"}}, "rope_type='linear'"),
        ("qwen 2.5", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ("qwen 3", {"attention_bias": True}, "attention_bias=True"),
        ("qwen 3", {"model_type": "qwen3_moe", "num_experts": 8}, "num_experts is set"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path, converted: Converted
) -> None:
    copy = Path(shutil.copytree(converted[name, 5][0], tmp_path / "hf"))
    write_json(copy / "config.json", read_json(copy / "config.json") | changes)
    with pytest.raises(InputError, match=message) as caught:
        import_checkpoint(copy, tmp_path / "megatron")
    assert str(copy / "config.json") in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def layered_difference(step: Path, folder: Path) -> float:
    """How far the float32 logits of a step and of a directory are apart."""
    config = read_model_config(step)
    tokens, positions = fixed_tokens(config)
    with open_world(ParallelConfig(), SINGLE_RANK, seed=2) as world:
        ours = megatron_logits(step, config, tokens, positions, world)
    theirs = transformers_logits(HuggingFaceReader(folder), config, tokens, positions)
    return float((ours - theirs).abs().max())


def swap_query_heads(tensors: Tensors) -> None:
    for kind in ("weight", "bias"):
        name = f"{LAYER}.q_proj.{kind}"
        if name in tensors:
            heads = tensors[name].chunk(4)
            tensors[name] = torch.cat([heads[1], heads[0], *heads[2:]])


def drop_bias(tensors: Tensors) -> None:
    tensors[f"{LAYER}.k_proj.bias"] = torch.zeros_like(tensors[f"{LAYER}.k_proj.bias"])


def swap_head_norms(tensors: Tensors) -> None:
    query, key = f"{LAYER}.q_norm.weight", f"{LAYER}.k_norm.weight"
    tensors[query], tensors[key] = tensors[key], tensors[query]


def roll_bias(tensors: Tensors) -> None:
    """As if biases were stacked and not ordered by group."""
    name = f"{LAYER}.v_proj.bias"
    tensors[name] = tensors[name].roll(len(tensors[name]) // 2)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, swap_query_heads) for name in ("mistral", "llama 3.1", "qwen 2.5", "qwen 3")),
        ("qwen 2.5", drop_bias),
        ("qwen 2.5 tied yarn", roll_bias),
        ("qwen 3", swap_head_norms),
    ],
)
def test_damaged_tensors_fail_both_checks(
    name: str, damage: Callable[[Tensors], None], tmp_path: Path, converted: Converted
) -> None:
    _, step, back = converted[name, 5]
    wrong = Path(shutil.copytree(back, tmp_path / "wrong"))
    tensors = load_file(wrong / "model.safetensors")
    damage(tensors)
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tensor model\.layers\.1\..* differs from decoder\."):
        verify_conversion(step, wrong)
    assert layered_difference(step, wrong) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("llama 3.1", "factor", 8.0),  # what Megatron-Core would take by itself
        ("llama 3.1", "low_freq_factor", 1.0),
        ("llama 3.1", "high_freq_factor", 4.0),
        ("llama 3.1", "original_max_position_embeddings", 100),
        ("qwen 2.5 tied yarn", "factor", 4.0),
        ("llama yarn", "attention_factor", 1.2),
        ("mistral yarn", "beta_slow", 0.25),
    ],
)
def test_a_wrong_constant_of_the_scaling_shows_in_the_logits(
    name: str, field: str, value: float, tmp_path: Path, converted: Converted
) -> None:
    """Equal tensors, yet another model."""
    _, step, back = converted[name, 5]
    wrong = Path(shutil.copytree(back, tmp_path / "wrong"))
    fields: dict[str, Any] = read_json(wrong / "config.json")
    for rotary in (fields["rope_parameters"], fields["rope_scaling"]):
        assert rotary.get(field) != value
        rotary[field] = value
    write_json(wrong / "config.json", fields)
    with pytest.raises(InputError, match=r"logits up to [\d.]+ differ from those of"):
        verify_conversion(step, wrong)


def test_positions_reach_where_the_scaling_does() -> None:
    """Qwen's YaRN leaves max_position_embeddings at the original 32,768."""
    scaled = read_model_config_of_qwen(factor=4.0, original=32768)
    assert int(fixed_tokens(scaled)[1][-1]) == 131071
    assert int(fixed_tokens(replace(scaled, rope_scaling=ModelConfig().rope_scaling))[1][-1]) == 511


def read_model_config_of_qwen(factor: float, original: int) -> ModelConfig:
    scaling = replace(
        ModelConfig().rope_scaling, type="yarn", factor=factor, original_positions=original
    )
    return ModelConfig(architecture="qwen2", max_position_embeddings=512, rope_scaling=scaling)


def test_frequencies_in_the_files_of_llama_2_are_passed_over(
    tmp_path: Path, converted: Converted
) -> None:
    source, _, _ = converted["llama 2", 4]
    copy = Path(shutil.copytree(source, tmp_path / "hf"))
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(6)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    step = import_checkpoint(copy, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    renamed = {name.replace("rotary_emb.inv_freq", "extra"): each for name, each in tensors.items()}
    save_file(renamed, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="tensors that the architecture lacks"):
        import_checkpoint(copy, tmp_path / "other")
