"""Proves a conversion: every tensor bit for bit, and the logits of both models on fixed tokens."""

from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_in2.checkpoint.folder import read_model_config
from megatron_in2.checkpoint.huggingface import HuggingFaceReader
from megatron_in2.checkpoint.names import mappings
from megatron_in2.checkpoint.reader import CheckpointReader
from megatron_in2.checkpoint.store import load_weights
from megatron_in2.errors import InputError
from megatron_in2.model.config import ModelConfig
from megatron_in2.model.mistral import build_model
from megatron_in2.model.packed_row import packed_row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import World, open_world

TOLERANCE = 1e-4  # on float32 logits
MAX_TOKENS = 512  # of the fixed text on which logits are compared


@dataclass(frozen=True)
class Verification:
    """What was compared: tensors equal bit for bit, and how far the logits lie apart."""

    tensors: int
    tokens: int
    largest_logit: float
    largest_difference: float


def verify_conversion(step: Path, folder: Path) -> Verification:
    """Compare a complete step with a Hugging Face directory, tensors first, then float32 logits.

    Raises:
        InputError: a tensor differs, or logits differ by more than ``TOLERANCE``; the message
            names the tensor or the difference.
    """
    config = read_model_config(step)
    count = _compare_tensors(step, folder, config)
    tokens = fixed_tokens(config)
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        ours = _megatron_logits(step, config, tokens, world)
    theirs = _transformers_logits(folder, tokens)
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE:
        raise InputError(f"{folder}: logits differ from {step} by {difference:.2e}")
    return Verification(count, tokens.numel(), float(theirs.abs().max()), difference)


def fixed_tokens(config: ModelConfig) -> torch.Tensor:
    """Return the token ids, int64 [1, N], on which both models are compared."""
    count = min(MAX_TOKENS, config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (1, count), generator=generator)


def _compare_tensors(step: Path, folder: Path, config: ModelConfig) -> int:
    ours, theirs = CheckpointReader(step, config), HuggingFaceReader(folder)
    count = 0
    for mapping in mappings(config):
        tensors = mapping.split(ours.read(mapping))
        for name, shape, tensor in zip(mapping.names, mapping.shapes, tensors, strict=True):
            other = theirs.read(name, shape)
            if not torch.equal(tensor.to(other.dtype), other):
                raise InputError(f"{folder}: tensor {name} differs from {mapping.key} of {step}")
            count += 1
    return count


@torch.no_grad()
def _megatron_logits(
    step: Path, config: ModelConfig, tokens: torch.Tensor, world: World
) -> torch.Tensor:
    model = build_model(config, ParallelConfig(), world, torch.float32)
    load_weights(step, model)
    model.eval()
    tokens = tokens.to(world.device)
    positions = torch.arange(tokens.size(1), device=world.device).unsqueeze(0)
    row = packed_row([tokens.size(1)], world.device)
    return model(tokens, positions, None, packed_seq_params=row).float().cpu()  # type: ignore[no-any-return]


@torch.no_grad()
def _transformers_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    return model(tokens).logits.float()  # type: ignore[no-any-return]
