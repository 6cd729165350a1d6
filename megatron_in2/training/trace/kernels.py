"""The kernels that a GPU runs where other devices take several operations, and what they cost.

Sources: torch's ``aten/src/ATen/native/transformers/cuda`` (which attention kernel is taken, and
what flash attention's backward allocates), ``aten/src/ATen/native/layer_norm.cpp`` (RMSNorm).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import flop_registry

from megatron_in2.parallel.simulated import StandIns
from megatron_in2.training.trace.engine.operators import rms_norm, rms_norm_backward

HALF = (torch.bfloat16, torch.float16)
_BLOCK = 128  # to which flash attention's backward rounds lengths up
aten = torch.ops.aten
_PLACE_OF_QUERY = {
    aten._scaled_dot_product_flash_attention: 0,
    aten._scaled_dot_product_flash_attention_backward: 1,
}


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])


def _backward(ctx: Any, gradient: torch.Tensor, unused: Any) -> tuple[Any, Any, None]:
    return (*rms_norm_backward(gradient, *ctx.saved_tensors), None)


rms_norm.register_autograd(_backward, setup_context=_keep)


def _fused_rms_norm(x: torch.Tensor, shape: Any, weight: torch.Tensor, eps: float) -> torch.Tensor:
    output: torch.Tensor = rms_norm(x, weight, eps)[0]
    return output


def _flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Flash attention, with the last query seeing every key where ``attn_mask`` says so.

    In float32 there is no such kernel: torch takes the attention apart, scores included.
    """
    if query.dtype not in HALF:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
        )
    output: torch.Tensor = aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, True, False, scale=scale
    )[0]
    return output


GPU_KERNELS: StandIns = {
    F.rms_norm: _fused_rms_norm,
    F.scaled_dot_product_attention: _flash_attention,
}


def kernel_name(func: Any, args: Any) -> str:
    """Return an operation's name.

    Attention of as many queries as keys is the one for which the program lets torch choose the
    card's kernel; with fewer queries it calls flash attention itself.
    """
    query = _PLACE_OF_QUERY.get(func.overloadpacket)
    name: str = func.overloadpacket.__name__
    if query is not None and args[query].size(2) == args[query + 1].size(2):
        return name.replace("_scaled", "scaled", 1).replace("_flash", "")
    return name


def flops_of(func: Any, args: Any, kwargs: Any, output: Any) -> float:
    """Count floating-point operations of matrix products and attention; 0 for any other kernel."""
    packet = func.overloadpacket
    if packet in _ATTENTION:
        return _ATTENTION[packet](args)
    formula = flop_registry.get(packet)
    return float(formula(*args, **kwargs, out_val=output)) if formula else 0.0


def _causal_pairs(queries: int, keys: int) -> float:
    """Pairs of query and visible key where the last query sees every key.

    A square counts half of its pairs, as :mod:`megatron_in2.training.arithmetic.flops` does.
    """
    return queries * (keys - queries / 2)


def _forward_flops(args: Any) -> float:
    query, key = args[0], args[1]  # [batch, heads, tokens, width]
    pairs = _causal_pairs(query.size(2), key.size(2))
    return float(4 * query.size(0) * query.size(1) * query.size(3) * pairs)


def _backward_flops(args: Any) -> float:
    return 2 * _forward_flops(args[1:])


def _row_flops(args: Any) -> float:
    query, borders = args[0], args[3]  # [tokens, heads, width]
    lengths = (borders[1:] - borders[:-1]).tolist()
    pairs = sum(_causal_pairs(length, length) for length in lengths)
    return float(4 * query.size(1) * query.size(2) * pairs)


def _row_backward_flops(args: Any) -> float:
    return 2 * _row_flops([args[1], None, None, args[6]])


def _fused_flops(args: Any) -> float:
    query, pairs = args[0], args[3]  # [tokens, heads, width]
    return float(4 * query.size(1) * query.size(2) * pairs)


def _fused_backward_flops(args: Any) -> float:
    return 2 * _fused_flops([args[1], None, None, args[6]])


fused = torch.ops.megatron_in2
_ATTENTION: dict[Any, Callable[[Any], float]] = {
    fused.fused_attention: _fused_flops,
    fused.fused_attention_backward: _fused_backward_flops,
    aten._scaled_dot_product_flash_attention: _forward_flops,
    aten._scaled_dot_product_flash_attention_backward: _backward_flops,
}
if hasattr(torch.ops, "torch_attn"):
    _ATTENTION[torch.ops.torch_attn._varlen_attn] = _row_flops
    _ATTENTION[torch.ops.torch_attn._varlen_attn_backward] = _row_backward_flops


def workspace_bytes(func: Any, args: Any) -> int:
    """Bytes that a kernel allocates for itself while it runs."""
    if func.overloadpacket is aten._scaled_dot_product_flash_attention_backward:
        query, key = args[1], args[2]
        return _flash_backward_workspace(
            query.size(0) * query.size(2), query.size(1), query.size(3), key.size(2), key.size(1)
        )
    if func.overloadpacket is fused.fused_attention_backward:  # assumed: that of flash attention
        query, key = args[1], args[2]
        return _flash_backward_workspace(*query.shape, *key.shape[:2])
    return 0


def _flash_backward_workspace(queries: int, heads: int, width: int, keys: int, groups: int) -> int:
    """The queries' gradient in float32, one float a row, and keys' and values' by query head."""
    rounded = -(-queries // _BLOCK) * _BLOCK
    size = 4 * heads * rounded * (width + 1)
    return size + (2 * 2 * keys * heads * width if groups != heads else 0)
