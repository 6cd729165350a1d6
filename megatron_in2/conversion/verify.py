"""Proves a conversion: every tensor bit for bit, and the logits of both models on fixed tokens."""

from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import tensor_table
from megatron_in2.checkpoint.folder import read_model_config
from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.logits import megatron_logits, transformers_logits
from megatron_in2.conversion.megatron_reader import MegatronReader
from megatron_in2.conversion.tensor_checks import same_bits
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.progress import progress_bar

# Largest difference of float32 logits, where they are below 1; larger logits round in proportion.
TOLERANCE = 1e-4
NEAR_TOKENS = 64  # at positions 0, 1, 2, ...
FAR_TOKENS = 64  # spread evenly from there to the last position


@dataclass(frozen=True)
class Verification:
    """What was compared: tensors equal bit for bit, and how far the logits lie apart."""

    tensors: int
    tokens: int
    last_position: int
    largest_logit: float
    largest_difference: float


def verify_conversion(step: Path, folder: Path, allow_pickle: bool = False) -> Verification:
    """Compare a complete step with a Hugging Face directory, tensors first, then float32 logits.

    Tensors of an export to another dtype are compared after the same rounding. Memory: a layer,
    the embedding and the LM head in float32 (2 GB for Mistral-7B) and the activations of 128
    tokens.

    Raises:
        InputError: a tensor differs, or logits differ by more than ``TOLERANCE``; the message
            names the tensor or the difference.
    """
    config = read_model_config(step)
    reader = HuggingFaceReader(folder, allow_pickle)
    count = _compare_tensors(step, reader, config)
    tokens, positions = fixed_tokens(config)
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        ours = megatron_logits(step, config, tokens, positions, world)
    theirs = transformers_logits(reader, config, tokens, positions)
    largest, difference = float(theirs.abs().max()), float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(largest, 1.0):
        raise InputError(
            f"{folder}: logits up to {largest:.3f} differ from those of {step} by {difference:.2e}"
        )
    return Verification(count, len(tokens), int(positions[-1]), largest, difference)


def fixed_tokens(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids, int64 [N], on which both models are compared, and their positions.

    Positions go up to the last one, and where frequencies are scaled up to where that reaches.
    """
    scaling = config.rope_scaling
    reach = 0 if scaling.type == "default" else int(scaling.factor * scaling.original_positions)
    last = max(config.max_position_embeddings, reach) - 1
    near = torch.arange(min(NEAR_TOKENS, last + 1))
    far = torch.linspace(int(near[-1]), last, FAR_TOKENS + 1).round().to(torch.int64)
    far = torch.unique_consecutive(far)[1:]
    positions = torch.cat([near, far])
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (len(positions),), generator=generator), positions


def _compare_tensors(step: Path, theirs: HuggingFaceReader, config: ModelConfig) -> int:
    ours, count = MegatronReader(step, config), 0
    for mapping in progress_bar(tensor_table(config), desc="compare", unit=" tensors"):
        tensors = mapping.split(ours.read(mapping))
        for name, shape, tensor in zip(mapping.names, mapping.shapes, tensors, strict=True):
            other = theirs.read(name, shape)
            if not same_bits(tensor.to(other.dtype), other):
                raise InputError(
                    f"{theirs.folder}: tensor {name} differs from {mapping.key} of {step}"
                )
            count += 1
    return count
