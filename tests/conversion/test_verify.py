"""Verification: what it passes is right, and what is wrong it does not pass."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.checkpoint.folder import read_model_config
from megatron_in2.checkpoint.store import load_weights
from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.logits import megatron_logits, transformers_logits
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.conversion.verify import TOLERANCE, fixed_tokens, verify_conversion
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.model.build import build_model
from megatron_in2.model.packed_row import packed_row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from tests.conversion.conftest import MakeModel

Tensors = dict[str, torch.Tensor]
HEAD = 16  # rows of one head
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> tuple[Path, Path]:
    """A step and the Hugging Face directory it came from; positions up to 9,000, read only."""
    folder = tmp_path_factory.mktemp("converted")
    source = make_model(folder / "hf", heads=4, groups=2, positions=9000)
    return import_checkpoint(source, folder / "megatron").step, source


@torch.no_grad()
def whole_megatron_logits(step: Path, tokens: torch.Tensor) -> torch.Tensor:
    """The logits [N, V] of the whole model, as training builds and runs it."""
    config = read_model_config(step)
    with open_world(ParallelConfig(), SINGLE_RANK, seed=1) as world:
        model = build_model(config, ParallelConfig(), world, torch.float32).eval()
        load_weights(step, model)
        positions = torch.arange(len(tokens)).unsqueeze(0)
        row = packed_row([len(tokens)], world.device)
        logits: torch.Tensor = model(tokens.unsqueeze(0), positions, None, packed_seq_params=row)
    return logits[0]


def layered_megatron_logits(
    step: Path, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    with open_world(ParallelConfig(), SINGLE_RANK, seed=2) as world:
        return megatron_logits(step, read_model_config(step), tokens, positions, world)


def whole_transformers(folder: Path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def random_tokens(count: int) -> torch.Tensor:
    return torch.randint(0, 1003, (count,), generator=torch.Generator().manual_seed(3))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1  # far from uniform: a wrong model could not agree by chance
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("count", [6, 8192])
def test_whole_models_agree_after_the_round_trip(
    tmp_path: Path, converted: tuple[Path, Path], count: int
) -> None:
    step, _ = converted
    export_checkpoint(step, tmp_path / "back")
    tokens = random_tokens(count)
    with torch.no_grad():
        theirs = whole_transformers(tmp_path / "back")(tokens.unsqueeze(0)).logits[0]
    assert_close(whole_megatron_logits(step, tokens), theirs)


def test_layer_by_layer_is_the_whole_megatron_model(converted: tuple[Path, Path]) -> None:
    step, _ = converted
    tokens = random_tokens(50)
    assert_close(
        layered_megatron_logits(step, tokens, torch.arange(50)),
        whole_megatron_logits(step, tokens),
    )


def test_layer_by_layer_is_the_whole_transformers_model(converted: tuple[Path, Path]) -> None:
    """At positions with gaps, the whole model given the same positions and a causal mask."""
    step, source = converted
    config = read_model_config(step)
    tokens, positions = fixed_tokens(config)
    causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    with torch.no_grad():
        whole = whole_transformers(source)(
            tokens.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            attention_mask=causal[None, None],
        ).logits[0]
    layered = transformers_logits(HuggingFaceReader(source), config, tokens, positions)
    assert_close(layered, whole)
    assert_close(layered_megatron_logits(step, tokens, positions), whole)


def test_tied_model(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf", tied=True)
    step = import_checkpoint(source, tmp_path / "megatron").step
    result = verify_conversion(step, source)
    assert (result.tensors, result.last_position) == (20, 511)
    assert result.largest_difference <= 1e-4


def test_positions_reach_the_last(converted: tuple[Path, Path]) -> None:
    for last, count in ((32767, 128), (4095, 128), (100, 101), (5, 6), (0, 1)):
        tokens, positions = fixed_tokens(ModelConfig(max_position_embeddings=last + 1))
        assert int(positions[-1]) == last
        assert len(tokens) == len(positions) == count
        assert (positions.diff() > 0).all()
        assert int(positions[: min(64, count)].sum()) == sum(range(min(64, count)))


def swap_heads(tensors: Tensors) -> None:
    """Exchange the rows of the first two query heads, which share a group."""
    rows = tensors[QUERY]
    tensors[QUERY] = torch.cat([rows[HEAD : 2 * HEAD], rows[:HEAD], rows[2 * HEAD :]])


def swap_groups(tensors: Tensors) -> None:
    """Exchange the two key heads, as if groups were in another order."""
    name = QUERY.replace("q_proj", "k_proj")
    tensors[name] = tensors[name].roll(HEAD, 0)


def permute_rotary(tensors: Tensors) -> None:
    """Interleave the halves of every query head, as Meta's checkpoints have them."""
    rows = tensors[QUERY].view(-1, 2, HEAD // 2, 64)
    tensors[QUERY] = rows.transpose(1, 2).reshape(-1, 64).contiguous()


def swap_gate_up(tensors: Tensors) -> None:
    gate, up = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
    tensors[gate], tensors[up] = tensors[up], tensors[gate]


def swap_norms(tensors: Tensors) -> None:
    first, second = (
        f"model.layers.1.{name}_layernorm.weight" for name in ("input", "post_attention")
    )
    tensors[first], tensors[second] = tensors[second], tensors[first]


@pytest.mark.parametrize(
    "damage", [swap_heads, swap_groups, permute_rotary, swap_gate_up, swap_norms]
)
def test_controls_fail_both_checks(
    tmp_path: Path, converted: tuple[Path, Path], damage: Callable[[Tensors], None]
) -> None:
    step, source = converted
    wrong = Path(shutil.copytree(source, tmp_path / "wrong"))
    tensors = load_file(wrong / "model.safetensors")
    damage(tensors)
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tensor model\.layers\.\d\..* differs from decoder\."):
        verify_conversion(step, wrong)
    config = read_model_config(step)
    tokens, positions = fixed_tokens(config)
    theirs = transformers_logits(HuggingFaceReader(wrong), config, tokens, positions)
    difference = (layered_megatron_logits(step, tokens, positions) - theirs).abs().max()
    assert difference > 1000 * TOLERANCE


def test_one_bit_is_enough(tmp_path: Path, converted: tuple[Path, Path]) -> None:
    step, source = converted
    wrong = Path(shutil.copytree(source, tmp_path / "wrong"))
    tensors = load_file(wrong / "model.safetensors")
    tensors["model.embed_tokens.weight"].view(torch.int16)[1002, 63] ^= 1
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tensor model\.embed_tokens\.weight differs"):
        verify_conversion(step, wrong)


def test_wrong_rotary_base_shows_in_the_logits_alone(
    tmp_path: Path, converted: tuple[Path, Path]
) -> None:
    """Equal tensors, yet another model: a base ten times smaller."""
    step, source = converted
    wrong = Path(shutil.copytree(source, tmp_path / "wrong"))
    rotary = {"rope_theta": 1e5, "rope_type": "default"}
    write_json(
        wrong / "config.json", read_json(wrong / "config.json") | {"rope_parameters": rotary}
    )
    with pytest.raises(InputError, match=r"logits up to [\d.]+ differ from those of"):
        verify_conversion(step, wrong)


def test_nan_does_not_pass(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    tensors[QUERY][0, 0] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    step = import_checkpoint(source, tmp_path / "megatron").step
    with pytest.raises(InputError, match=r"differ from those of .* by nan"):
        verify_conversion(step, source)
