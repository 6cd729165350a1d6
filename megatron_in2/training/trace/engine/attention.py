"""Attention of Transformer Engine over packed samples, by cuDNN's fused kernels.

Sources: ``attention/rope.py``, ``attention/dot_product_attention/backends.py`` (``FusedAttnFunc``)
and ``context_parallel.py`` (``AttnFuncWithCPAndKVP2P``). Shapes: T tokens of this context rank, H
query heads, G key/value groups, D head width, local to the tensor-parallel rank.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_in2.model.packed_row import PackedRow
from megatron_in2.training.trace.engine.operators import (
    fused_attention,
    fused_attention_backward,
    half_of_samples,
    rotate,
)


class DotProductAttention(torch.nn.Module):
    """Core attention. Under context parallelism keys and values travel in a ring of ranks."""

    def __init__(
        self, config: Any, pg_collection: ProcessGroupCollection | None = None, **unused: Any
    ) -> None:
        super().__init__()
        assert pg_collection is not None
        self._context = pg_collection.cp

    def forward(
        self,
        query_THD: torch.Tensor,
        key_TGD: torch.Tensor,
        value_TGD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        packed_seq_params: PackedRow,
        **unused: Any,
    ) -> torch.Tensor:  # [T, H * D]
        borders = packed_seq_params.cu_seqlens_q
        assert borders is not None
        lengths = ((borders[1:] - borders[:-1]) // self._context.size()).tolist()
        pairs = sum(length**2 / 2 for length in lengths)
        # The values are a part of the product with the matrix, which the kernels do not take.
        inputs = [each.contiguous() for each in (query_THD, key_TGD, value_TGD)]
        output: torch.Tensor
        if self._context.size() == 1:
            output = _FusedAttention.apply(*inputs, pairs)  # type: ignore[no-untyped-call]
        else:
            output = _RingAttention.apply(  # type: ignore[no-untyped-call]
                *inputs, pairs, self._context
            )
        return output.flatten(1)


class _FusedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, its output, and each row's log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pairs: float
    ) -> torch.Tensor:
        output: torch.Tensor
        output, scale = fused_attention(query, key, value, pairs)
        ctx.save_for_backward(query, key, value, output, scale)
        ctx.pairs = pairs
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        gradient = gradients[0].contiguous()
        return (*fused_attention_backward(gradient, *ctx.saved_tensors, ctx.pairs), None)


class _RingAttention(torch.autograd.Function):
    """Keeps queries, one rank's keys and values, its output, and each row's log-sum-exp.

    In each step a rank has another rank's keys and values. Of later ranks' it attends with the
    second half of every sample's queries, of earlier ranks' to the first half of every sample's
    keys: always half of the pairs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pairs: float,
        group: Any,
    ) -> torch.Tensor:
        ring = _Ring(group, key.shape, towards=1)
        buffers = [torch.cat((key.view(-1), value.view(-1)))]
        del key, value
        outputs: list[torch.Tensor] = []
        scales: list[torch.Tensor] = []
        works: list[Any] = []
        for step in range(ring.size):
            _wait(works)
            if step < ring.size - 1:
                buffers.append(torch.empty_like(buffers[step]))
                works = ring.pass_on(buffers[step], buffers[step + 1])
            keys, values = ring.parts(buffers[step])
            if step == 0:
                found = fused_attention(query, keys, values, pairs)
            elif step <= ring.rank:
                halves = half_of_samples(keys), half_of_samples(values)
                found = fused_attention(query, *halves, pairs)
            else:
                found = fused_attention(half_of_samples(query), keys, values, pairs)
            outputs.append(found[0])
            scales.append(found[1].squeeze(-1).transpose(0, 1).contiguous())
            if step == 0:
                scale, output = scales[0].clone(), torch.zeros_like(query)
            else:
                scale.narrow(1, 0, scales[step].size(1)).add_(scales[step])
        for part in outputs:
            output.narrow(0, 0, part.size(0)).add_(part)
        ctx.save_for_backward(query, buffers[-1], output, scale)
        ctx.pairs, ctx.group, ctx.shape = pairs, group, ring.shape
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        query, both, output, scale = ctx.saved_tensors
        ring = _Ring(ctx.group, ctx.shape, towards=-1)
        gradient = gradients[0].contiguous()
        scale = scale.transpose(0, 1).contiguous()
        is_last = ring.rank == ring.size - 1
        half_scale = scale if is_last else half_of_samples(scale)
        of_query = torch.empty_like(query)
        # Each holds keys and values, and their gradients so far.
        buffers = [both.new_empty((2, *both.shape)) for _ in range(2)]
        buffers[0][0].copy_(both)
        works: list[Any] = []
        for step in range(ring.size):
            _wait(works)
            sent, received = buffers[step % 2], buffers[(step + 1) % 2]
            if step == 0:
                works = ring.pass_on(sent[0], received[0])
            elif step == ring.size - 1:
                works = ring.pass_on(sent[1], received[1])
            else:
                works = ring.pass_on(sent, received)
            keys, values = ring.parts(sent[0])
            inputs = gradient, query, keys, values, output, scale
            if ring.size - ring.rank - 1 <= step < ring.size - 1:
                halves = half_of_samples(keys), half_of_samples(values)
                inputs = gradient, query, *halves, output, scale
            elif step < ring.size - 1:
                half = half_of_samples(query), keys, values, half_of_samples(output)
                inputs = half_of_samples(gradient), *half, half_scale
            parts = fused_attention_backward(*inputs, ctx.pairs)
            of_query.narrow(0, 0, parts[0].size(0)).add_(parts[0])
            _wait(works)
            of_both = ring.parts(received[1])
            for whole, part in zip(of_both, parts[1:], strict=True):
                whole.narrow(0, 0, part.size(0)).add_(part)
        return of_query, *of_both, None, None


class _Ring:
    """The context-parallel ranks, each of which passes keys and values on to the next.

    Args:
        group: of these ranks.
        shape: of the keys; the values have the same.
        towards: 1 to the next rank, -1 to the one before.
    """

    def __init__(self, group: Any, shape: torch.Size, towards: int) -> None:
        self.size, self.rank, self.shape = group.size(), group.rank(), shape
        ranks = dist.get_process_group_ranks(group)
        self._group = group
        self._next = ranks[(self.rank + towards) % self.size]
        self._last = ranks[(self.rank - towards) % self.size]

    def pass_on(self, sent: torch.Tensor, received: torch.Tensor) -> list[Any]:
        """Start to send and to receive; return what to wait for."""
        return [
            dist.isend(sent, self._next, self._group),
            dist.irecv(received, self._last, self._group),
        ]

    def parts(self, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of keys and values."""
        keys, values = both.chunk(2)
        return keys.view(self.shape), values.view(self.shape)


def _wait(works: list[Any]) -> None:
    for work in works:
        work.wait()


class _Rotate(torch.autograd.Function):
    """Keeps the angles of the positions, which all layers share."""

    @staticmethod
    def forward(ctx: Any, x_THD: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(angles)
        rotated: torch.Tensor = rotate(x_THD)
        return rotated

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return rotate(gradients[0]), None


def rotate_samples(
    x_THD: torch.Tensor, borders: torch.Tensor, angles: torch.Tensor, **unused: Any
) -> torch.Tensor:
    """Rotate queries or keys, positions starting anew in every sample."""
    rotated: torch.Tensor = _Rotate.apply(x_THD, angles)  # type: ignore[no-untyped-call]
    return rotated
