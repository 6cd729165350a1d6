"""Rotary frequencies of a model, unscaled or scaled as in transformers.

Megatron-Core has Llama 3's rule with fixed constants and a YaRN that rounds differently; here every
constant is the config's. The arithmetic is float32 in transformers' order, so that both
libraries rotate by the same angles bit for bit: at position 100,000 the last bit of a frequency is
0.01 radians.
"""

import math
from typing import NamedTuple

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.rope import RopeScaling


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles: [T, 1, head_dim] each, in the model's dtype.

    All layers share them. Megatron-Core computes them in each layer, for queries and for keys,
    and autograd keeps them all.
    """

    cosine: torch.Tensor
    sine: torch.Tensor

    def at(self, positions: torch.Tensor) -> "Rotation":
        """Return the rotation of the tokens at int64 [N] places of this rank's tokens."""
        return Rotation(
            self.cosine.index_select(0, positions), self.sine.index_select(0, positions)
        )

    def __call__(self, x_THD: torch.Tensor) -> torch.Tensor:
        """Rotate queries or keys, in the order of Megatron-Core's operations."""
        first, second = x_THD.chunk(2, dim=-1)
        return x_THD * self.cosine + torch.cat((-second, first), dim=-1) * self.sine


def rotation_of(angles: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """Return the rotation of every token.

    Args:
        angles: Megatron-Core's rotary embedding, float32 [positions, 1, 1, head_dim].
        positions: int64 [T], each token's position in its sample.
        dtype: of the queries and keys.
    """
    own = angles[:, 0].index_select(0, positions)
    return Rotation(own.cos().to(dtype), own.sin().to(dtype))


def rotary_frequencies(model: ModelConfig) -> torch.Tensor:
    """Return the angle per position of each pair of dimensions: float32 [head_dim / 2]."""
    width, theta, scaling = model.head_dim, model.rope_theta, model.rope_scaling
    periods = theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if scaling.type == "llama3":
        return _llama3(1.0 / periods, scaling)
    if scaling.type == "yarn":
        return _yarn(periods, scaling, width, theta)
    return 1.0 / periods


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Keep short waves, divide the frequency of long ones, interpolate between (Llama 3.1)."""
    longest = scaling.original_positions / scaling.low_freq_factor
    shortest = scaling.original_positions / scaling.high_freq_factor
    waves = 2 * math.pi / frequencies
    scaled = torch.where(waves > longest, frequencies / scaling.factor, frequencies)
    kept = (scaling.original_positions / waves - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - kept) * scaled / scaling.factor + kept * scaled
    return torch.where((waves >= shortest) & (waves <= longest), blended, scaled)


def _yarn(periods: torch.Tensor, scaling: RopeScaling, width: int, theta: float) -> torch.Tensor:
    """Divide slow dimensions by the factor, keep fast ones, with a ramp between (YaRN, 3.2)."""

    def dimension_of(rotations: float) -> float:
        """Return the dimension with this many rotations over the pretraining's positions."""
        per_rotation = scaling.original_positions / (rotations * 2 * math.pi)
        return (width * math.log(per_rotation)) / (2 * math.log(theta))

    first, last = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001  # avoids a division by zero
    ramp = (torch.arange(width // 2, dtype=torch.float32) - first) / (last - first)
    kept = 1 - ramp.clamp(0, 1)
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept
