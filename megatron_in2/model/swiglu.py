"""SwiGLU that keeps its input alone for the backward pass (torch backend).

Shapes: T tokens, F feed-forward size, local to the tensor-parallel rank. Megatron-Core 0.16.1 adds
an offset, zero here, to one half of the input, and so keeps a copy of this half and the activation
beside the input: 4 F with the product, where 3 F are enough.
"""

from typing import Any

import torch
import torch.nn.functional as F


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,) = gradients
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        of_gate, of_up = result.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=of_up)
        torch.ops.aten.silu_backward(gradient * up, gate, grad_input=of_gate)
        return result


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up: [..., 2 F] -> [..., F]."""
    product: torch.Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return product
