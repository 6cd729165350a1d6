"""Which modules a layer is made of: Transformer Engine's fused ones, or this project's on torch."""

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    HAVE_TE,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

from megatron_in2.errors import InputError
from megatron_in2.model.attention import PackedAttention
from megatron_in2.model.norm import RMSNorm


def choose_backend(wanted: str) -> str:
    """Resolve ``auto``: ``transformer_engine`` where it imports and CUDA is there, else ``torch``.

    Raises:
        InputError: ``transformer_engine`` is asked for where it cannot run.
    """
    available = torch.cuda.is_available() and HAVE_TE
    if wanted == "transformer_engine" and not available:
        raise InputError(
            "model.backend=transformer_engine needs a GPU and the transformer-engine package: "
            "install it, or use model.backend=torch"
        )
    if wanted == "auto":
        return "transformer_engine" if available else "torch"
    return wanted


def block_spec(backend: str, num_layers: int) -> ModuleSpec | TransformerBlockSubmodules:
    """Return what ``GPTModel`` builds its decoder from.

    Args:
        backend: ``torch`` or ``transformer_engine``, as :func:`choose_backend` resolved it.
        num_layers: layers of this pipeline stage.
    """
    if backend == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec()
    layer = get_gpt_layer_local_spec()
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = PackedAttention
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=RMSNorm)
