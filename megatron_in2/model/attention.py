"""Causal attention over packed samples through scaled_dot_product_attention (torch backend).

Shapes: T tokens of this rank, H query heads, G key/value groups, D head width, all local to the
tensor-parallel rank.
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_in2.model.packed_row import PackedRow

try:
    from torch.nn.attention.varlen import varlen_attn

    # Scale and grouped queries came after the function itself.
    HAS_VARLEN = {"scale", "window_size", "enable_gqa"} <= set(
        inspect.signature(varlen_attn).parameters
    )
except ImportError:  # an older torch
    HAS_VARLEN = False

CAUSAL_WINDOW = (-1, 0)  # every key up to the query's own, in varlen_attn's words
FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_WIDTHS = range(8, 257, 8)


class PackedAttention(torch.nn.Module):
    """Core attention for ``SelfAttention``: no sample sees another, no S x S matrix on CUDA.

    Padding is at each sample's end, so causality alone keeps it out of every real token.
    Under context parallelism keys and values are gathered over the group, and their gradients
    reduce-scattered back.

    Samples take a call each, but for rows of several samples on CUDA in half precision: there
    torch's variable-length flash attention takes the row in one, so that short samples do not
    cost a kernel launch each. It is used where torch has it and allows flash attention
    (``torch.nn.attention.sdpa_kernel`` rules it too).
    """

    def __init__(
        self,
        config: TransformerConfig,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        assert pg_collection is not None
        self.context_group = pg_collection.cp
        self.softmax_scale = softmax_scale
        self.is_grouped = config.num_query_groups != config.num_attention_heads

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
        row = packed_seq_params
        if row.rotation is not None:
            query_THD = (row.query_rotation or row.rotation)(query_THD)
            key_TGD = row.rotation(key_TGD)
        if row.row_order is not None:
            key_TGD = self._gather(key_TGD, row.row_order)
            value_TGD = self._gather(value_TGD, row.row_order)
        spans = row.spans
        if self._takes_row_at_once(query_THD, row):
            return self._attend_row(query_THD, key_TGD, value_TGD, row)
        queries = torch.split(query_THD, [span.queries for span in spans])
        outputs = []
        for query, span in zip(queries, spans, strict=True):
            key = key_TGD.narrow(0, span.key_start, span.keys)
            value = value_TGD.narrow(0, span.key_start, span.keys)
            outputs.append(self._attend(query, key, value))
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output.flatten(1)

    @staticmethod
    def _takes_row_at_once(query_THD: torch.Tensor, row: PackedRow) -> bool:
        return (
            HAS_VARLEN
            and query_THD.is_cuda
            and _has_flash_kernel(query_THD)
            # Context chunks, and the head's queries, see keys that borders cannot express.
            and row.row_order is None
            and row.cu_seqlens_q is not None
            and len(row.spans) > 1
        )

    def _attend_row(
        self,
        query_THD: torch.Tensor,
        key_TGD: torch.Tensor,
        value_TGD: torch.Tensor,
        row: PackedRow,
    ) -> torch.Tensor:  # [T, H * D]
        output = varlen_attn(
            query_THD,
            key_TGD,
            value_TGD,
            row.cu_seqlens_q,
            row.cu_seqlens_kv,
            row.max_seqlen_q,
            row.max_seqlen_kv,
            scale=self.softmax_scale,
            window_size=CAUSAL_WINDOW,
            enable_gqa=self.is_grouped,
        )
        assert isinstance(output, torch.Tensor)  # no auxiliary results were asked for
        return output.flatten(1)

    def _gather(self, x_TGD: torch.Tensor, row_order: torch.Tensor) -> torch.Tensor:
        gathered: torch.Tensor = gather_from_sequence_parallel_region(
            x_TGD, tensor_parallel_output_grad=True, group=self.context_group
        )
        return gathered.index_select(0, row_order)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:  # like query; the last query sees every key
        query_BHLD, key_BGLD, value_BGLD = (
            each.transpose(0, 1).unsqueeze(0) for each in (query, key, value)
        )
        attend = _attend_square if query.size(0) == key.size(0) else attend_lower_right
        output = attend(query_BHLD, key_BGLD, value_BGLD, self.softmax_scale, self.is_grouped)
        return output.squeeze(0).transpose(0, 1)


def _attend_square(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    is_grouped: bool,
) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=is_grouped
    )


def attend_lower_right(
    query_BHLD: torch.Tensor,
    key_BGLD: torch.Tensor,
    value_BGLD: torch.Tensor,
    scale: float | None,
    is_grouped: bool,
) -> torch.Tensor:
    """Attend causally with fewer queries than keys, of which the last query sees every one.

    Flash attention aligns its mask this way, but torch offers that by the operator only. Elsewhere
    the mask is a tensor.
    """
    if query_BHLD.is_cuda and _has_flash_kernel(query_BHLD):
        output: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
            query_BHLD, key_BGLD, value_BGLD, 0.0, True, False, scale=scale
        )[0]
        return output
    queries, keys = query_BHLD.size(2), key_BGLD.size(2)
    is_seen = torch.ones(queries, keys, dtype=torch.bool, device=query_BHLD.device)
    return F.scaled_dot_product_attention(
        query_BHLD,
        key_BGLD,
        value_BGLD,
        attn_mask=is_seen.tril(keys - queries),
        scale=scale,
        enable_gqa=is_grouped,
    )


def _has_flash_kernel(query: torch.Tensor) -> bool:
    return (
        query.dtype in FLASH_DTYPES
        and query.size(-1) in FLASH_WIDTHS
        and torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    )


class HeadAttention(PackedAttention):
    """The last layer's attention: only the queries whose outputs the LM head reads, N of T."""

    def forward(
        self, query_THD: torch.Tensor, *others: Any, packed_seq_params: PackedRow, **options: Any
    ) -> torch.Tensor:  # [N, H * D]
        row = packed_seq_params
        if row.head_positions is not None:
            query_THD = query_THD.index_select(0, row.head_positions)
            row = row.of_head()
        return super().forward(query_THD, *others, packed_seq_params=row, **options)
