"""Linear layers of Transformer Engine: a norm and a matrix in one, and the row-parallel one.

Shapes: T tokens of this context rank, or of this rank under sequence parallelism, H hidden size.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_in2.model.rms_norm import RMSNorm
from megatron_in2.training.trace.engine.operators import rms_norm, rms_norm_backward


class Split(NamedTuple):
    """How a layer is divided.

    Args:
        group: of the tensor-parallel ranks.
        sequence: they also divide the tokens outside the layer.
    """

    group: Any
    sequence: bool

    def gather(self, x: torch.Tensor, wait: bool = True) -> tuple[torch.Tensor, Any]:
        """Return all tokens from those of each rank, and what to wait for."""
        gathered = x.new_empty((x.size(0) * self.group.size(), *x.shape[1:]))
        return gathered, dist.all_gather_into_tensor(gathered, x, self.group, not wait)

    def reduce(self, x: torch.Tensor, wait: bool = True) -> tuple[torch.Tensor, Any]:
        """Return the sum over the ranks, and what to wait for; of this rank's tokens only."""
        if self.group.size() == 1:
            return x, None
        if not self.sequence:
            return x, dist.all_reduce(x, group=self.group, async_op=not wait)
        own = x.new_empty((x.size(0) // self.group.size(), *x.shape[1:]))
        return own, dist.reduce_scatter_tensor(own, x, group=self.group, async_op=not wait)


class LayerNormLinear(ColumnParallelLinear):  # type: ignore[misc] # upstream is untyped
    """RMSNorm and a column-parallel matrix (``module/layernorm_linear.py``)."""

    def __init__(
        self, input_size: int, output_size: int, *, config: TransformerConfig, **options: Any
    ) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self.layer_norm_weight = RMSNorm(config, input_size).weight
        self._eps = config.layernorm_epsilon
        self._split = Split(options["tp_group"], config.sequence_parallel)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:  # [T, 1, H]
        output: torch.Tensor = _LayerNormLinear.apply(  # type: ignore[no-untyped-call]
            x, self.layer_norm_weight, self.weight, self.bias, self._eps, self._split
        )
        return output, None


class _LayerNormLinear(torch.autograd.Function):
    """Keeps its input and the norm's output, of this rank's tokens, and each row's scale."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        norm_weight: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        eps: float,
        split: Split,
    ) -> torch.Tensor:
        rows = x.view(-1, x.size(-1))
        normed, scale = rms_norm(rows, norm_weight, eps)
        every = split.gather(normed)[0] if split.sequence else normed
        output = every @ weight.t() if bias is None else torch.addmm(bias, every, weight.t())
        ctx.save_for_backward(rows, norm_weight, weight, normed, scale)
        ctx.split, ctx.has_bias, ctx.shape = split, bias is not None, x.shape
        return output.view(-1, *x.shape[1:-1], weight.size(0))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        rows, norm_weight, weight, normed, scale = ctx.saved_tensors
        split: Split = ctx.split
        gradient = gradients[0].reshape(-1, weight.size(0))
        every, gathering = split.gather(normed, wait=False) if split.sequence else (normed, None)
        of_norm, reducing = split.reduce(gradient @ weight, wait=False)
        if gathering is not None:
            gathering.wait()
        of_weight = gradient.t() @ every
        of_bias = gradient.sum(0) if ctx.has_bias else None
        normed.untyped_storage().resize_(0)  # Transformer Engine frees it here
        del every
        if reducing is not None:
            reducing.wait()
        of_rows, of_norm_weight = rms_norm_backward(of_norm, rows, norm_weight, scale)
        return of_rows.view(ctx.shape), of_norm_weight, of_weight, of_bias, None, None


class RowLinear(RowParallelLinear):  # type: ignore[misc] # upstream is untyped
    """A row-parallel matrix (``module/linear.py``)."""

    def __init__(
        self, input_size: int, output_size: int, *, config: TransformerConfig, **options: Any
    ) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self._split = Split(options["tp_group"], config.sequence_parallel)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        output: torch.Tensor = _RowLinear.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self._split
        )
        return output, None


class _RowLinear(torch.autograd.Function):
    """Keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, split: Split) -> torch.Tensor:
        rows = x.view(-1, x.size(-1))
        output, _ = split.reduce(rows @ weight.t())
        ctx.save_for_backward(rows, weight)
        ctx.split, ctx.shape = split, x.shape
        return output.view(-1, *x.shape[1:-1], weight.size(0))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        rows, weight = ctx.saved_tensors
        split: Split = ctx.split
        gradient = gradients[0].reshape(-1, weight.size(0))
        if split.sequence:
            gradient, _ = split.gather(gradient)
        return (gradient @ weight).view(ctx.shape), gradient.t() @ rows, None


class Norm(RMSNorm):
    """A norm that no matrix follows (``ops/basic/rmsnorm.py``): it wants contiguous rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.contiguous())
