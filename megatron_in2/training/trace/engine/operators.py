"""Fused kernels of which a trace knows the shapes only.

Shapes: T tokens, H query heads, G key/value groups, D head width, F feed-forward size, local to
the tensor-parallel rank.
"""

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _no_values() -> NotImplementedError:
    return NotImplementedError("only its shapes are known")


@torch.library.custom_op("megatron_in2::rms_norm", mutates_args=())
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Pair:
    """Return the norm of the last dimension, and the float32 scale of each row."""
    raise _no_values()


@rms_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Pair:
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("megatron_in2::rms_norm_backward", mutates_args=())
def rms_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> Pair:
    """Return the gradients of ``x`` and ``weight``."""
    raise _no_values()


@rms_norm_backward.register_fake
def _(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> Pair:
    return torch.empty_like(x), torch.empty_like(weight)


@torch.library.custom_op("megatron_in2::rotate", mutates_args=())
def rotate(x_THD: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys, or rotate a gradient back."""
    raise _no_values()


@rotate.register_fake
def _(x_THD: torch.Tensor) -> torch.Tensor:
    return x_THD.new_empty(x_THD.shape)


@torch.library.custom_op("megatron_in2::swiglu", mutates_args=())
def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up: [T, 2 F] -> [T, F]."""
    raise _no_values()


@swiglu.register_fake
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.size(-1) // 2))


@torch.library.custom_op("megatron_in2::swiglu_backward", mutates_args=())
def swiglu_backward(gradient: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """Return the gradient of ``gate_up``."""
    raise _no_values()


@swiglu_backward.register_fake
def _(gradient: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(gate_up)


@torch.library.custom_op("megatron_in2::fused_attention", mutates_args=())
def fused_attention(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, pairs: float
) -> Pair:
    """Attend over packed samples; also return each row's log-sum-exp, float32 [T, H, 1].

    Args:
        q_THD: queries.
        k_TGD: keys.
        v_TGD: values.
        pairs: of a query and a key that it sees, in all samples; a square counts half of them.
    """
    raise _no_values()


@fused_attention.register_fake
def _(q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, pairs: float) -> Pair:
    return torch.empty_like(q_THD), q_THD.new_empty((*q_THD.shape[:2], 1), dtype=torch.float32)


@torch.library.custom_op("megatron_in2::fused_attention_backward", mutates_args=())
def fused_attention_backward(
    gradient: torch.Tensor,
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    output: torch.Tensor,
    scale: torch.Tensor,
    pairs: float,
) -> Three:
    """Return the gradients of queries, keys and values."""
    raise _no_values()


@fused_attention_backward.register_fake
def _(
    gradient: torch.Tensor,
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    *_kept: object,
) -> Three:
    return torch.empty_like(q_THD), torch.empty_like(k_TGD), torch.empty_like(v_TGD)


@torch.library.custom_op("megatron_in2::half_of_samples", mutates_args=())
def half_of_samples(x: torch.Tensor) -> torch.Tensor:
    """Copy the first or the second half of every sample: [T, ...] -> [T / 2, ...]."""
    raise _no_values()


@half_of_samples.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.size(0) // 2, *x.shape[1:]))
