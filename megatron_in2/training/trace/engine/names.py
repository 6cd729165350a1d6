"""Puts the modules here in the place of Transformer Engine's."""

from typing import Any

from megatron.core.fusions import fused_bias_swiglu
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec

from megatron_in2.model import backend
from megatron_in2.training.trace.engine.attention import DotProductAttention, rotate_samples
from megatron_in2.training.trace.engine.linear import LayerNormLinear, Norm, RowLinear
from megatron_in2.training.trace.engine.operators import swiglu, swiglu_backward


def engine_names() -> dict[Any, dict[str, Any]]:
    """Return what the names of Transformer Engine mean in a trace, for ``replaced``.

    Megatron-Core's fused SwiGLU is compiled on a GPU: one kernel forward, and one backward.
    """
    return {
        backend: {
            "HAVE_TE": True,
            "get_gpt_layer_with_transformer_engine_spec": _layer_spec,
            "LayerNormImpl": Norm,
        },
        rope_utils: {
            "fused_apply_rotary_pos_emb": rotate_samples,
            "fused_apply_rotary_pos_emb_thd": rotate_samples,
        },
        fused_bias_swiglu: {"swiglu": swiglu, "swiglu_back": swiglu_backward},
    }


def _layer_spec(qk_layernorm: bool = False) -> ModuleSpec:
    """Return a layer as ``get_gpt_layer_with_transformer_engine_spec`` composes it."""
    spec = get_gpt_layer_local_spec()
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = IdentityOp
    attention, mlp = layer.self_attention.submodules, layer.mlp.submodules
    attention.linear_qkv = mlp.linear_fc1 = LayerNormLinear
    attention.linear_proj = mlp.linear_fc2 = RowLinear
    attention.core_attention = DotProductAttention
    attention.q_layernorm = attention.k_layernorm = Norm if qk_layernorm else IdentityOp
    return spec
