"""Translates this package's configs into Megatron-Core's ``TransformerConfig``."""

import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import architecture_of
from megatron_in2.parallel.config import ParallelConfig


def _has_fused_weight_gradients() -> bool:
    """Return whether apex's kernel is there, which adds weight gradients in float32."""
    found = importlib.util.find_spec("fused_weight_gradient_mlp_cuda")
    return found is not None and torch.cuda.is_available()


def _softmax_scale(model: ModelConfig) -> float | None:
    """Return the factor of attention scores; None for the usual 1 / sqrt(head width)."""
    scale = model.rope_scaling.attention_scale
    return None if scale == 1.0 else scale**2 / math.sqrt(model.head_dim)


def _recompute_options(recompute: str, backend: str) -> dict[str, Any]:
    """Translate ``runtime.recompute``.

    ``selective`` recomputes norms and SwiGLU's products on the torch backend (``LeanLayer``). In
    Transformer Engine's modules they are fused with a matrix, so its feed-forward layers are
    recomputed as a whole.
    """
    if recompute == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    if recompute == "selective" and backend == "transformer_engine":
        return {"recompute_granularity": "selective", "recompute_modules": ["mlp"]}
    return {}


def transformer_config(
    model: ModelConfig,
    parallel: ParallelConfig,
    dtype: torch.dtype,
    backend: str,
    recompute: str,
    fp8: str = "",
) -> TransformerConfig:
    """Translate this package's configs into Megatron-Core's.

    ``calculate_per_token_loss`` must be set before the model is wrapped for data parallelism: it
    decides how gradients are scaled, and means of single ranks would be wrong under context
    parallelism.

    YaRN multiplies rotated queries and keys by a factor. Here the scores are multiplied by its
    square instead, which is the same product and also works with fused rotary kernels.

    FP8 is scaled per tensor from the current values ("tensorwise", Transformer Engine's current
    scaling). The delayed recipe has a history, which a resumed run would lack.
    """
    fused = backend == "transformer_engine"
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_dim,
        softmax_scale=_softmax_scale(model),
        ffn_hidden_size=model.ffn_hidden_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        calculate_per_token_loss=True,
        deallocate_pipeline_outputs=True,
        variable_seq_lengths=False,
        gradient_accumulation_fusion=_has_fused_weight_gradients(),
        masked_softmax_fusion=False,
        persist_layer_norm=fused,
        apply_rope_fusion=fused,
        bias_activation_fusion=fused,
        use_te_activation_func=not fused,  # the layer spec's own: see model/swiglu.py
        bias_dropout_fusion=False,
        fp8=fp8 or None,
        fp8_recipe="tensorwise",
        **_recompute_options(recompute, backend),
        **architecture_of(model).transformer_options(model),
    )
