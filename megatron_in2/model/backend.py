"""The modules of a layer: Transformer Engine's fused ones, or this package's on torch."""

from importlib import metadata

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    HAVE_TE,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    LayerNormImpl,
    TransformerBlockSubmodules,
)
from megatron.core.transformer.transformer_layer import TransformerLayer
from packaging.version import Version

from megatron_in2.errors import InputError
from megatron_in2.model.attention import HeadAttention, PackedAttention
from megatron_in2.model.head_layer import HeadLayer, with_outputs_at_answers
from megatron_in2.model.lean_layer import LeanLayer
from megatron_in2.model.rms_norm import RMSNorm
from megatron_in2.model.swiglu import swiglu

FP8_CAPABILITY = (8, 9)  # Ada
# What takes a packed row ("thd") in Transformer Engine's attention: cuDNN's kernels on Hopper and
# newer, flash-attn's on Ampere and newer. Otherwise it forms S x S matrices, or raises under
# context parallelism (get_attention_backend of Transformer Engine 2.9 to 2.11).
CUDNN_PACKED_CAPABILITY = (9, 0)
FLASH_ATTN_CAPABILITY = (8, 0)
FLASH_ATTN = "flash-attn"
FLASH_ATTN_VERSIONS = ((2, 1, 1), (2, 9))  # from, and before


def choose_backend(wanted: str) -> str:
    """Resolve ``auto``: ``transformer_engine`` where it takes packed rows, else ``torch``.

    Raises:
        InputError: ``transformer_engine`` is requested where it cannot run.
    """
    if wanted == "torch":
        return wanted
    lacking = _lacking_for_transformer_engine()
    if lacking and wanted == "transformer_engine":
        raise InputError(
            f"runtime.backend=transformer_engine needs {lacking}: install it, or use "
            "runtime.backend=torch"
        )
    return "torch" if lacking else "transformer_engine"


def _lacking_for_transformer_engine() -> str | None:
    """Return what Transformer Engine lacks here for packed rows; None where it has all."""
    if not (torch.cuda.is_available() and HAVE_TE):
        return "a GPU and the transformer-engine package"
    capability = torch.cuda.get_device_capability()
    if capability >= CUDNN_PACKED_CAPABILITY:
        return None
    card = torch.cuda.get_device_name()
    if capability < FLASH_ATTN_CAPABILITY:
        return f"an Ampere or newer GPU for packed rows, not {card},"
    low, below = FLASH_ATTN_VERSIONS
    if low <= _installed_version(FLASH_ATTN) < below:
        return None
    return f"{FLASH_ATTN} >= 2.1.1, < 2.9 for packed rows on {card} (Hopper needs none)"


def _installed_version(package: str) -> tuple[int, ...]:
    """Return a package's version as numbers; empty where it is not installed."""
    try:
        text = metadata.version(package)
    except metadata.PackageNotFoundError:
        return ()
    return Version(text).release


def require_fp8(fp8: str, backend: str) -> None:
    """Check that this machine and backend have the FP8 format that ``runtime.fp8`` names.

    Args:
        fp8: hybrid | e4m3, or empty for none.
        backend: as :func:`choose_backend` resolved it.

    Raises:
        InputError: the backend is not Transformer Engine, or the GPU has no FP8 units.
    """
    if not fp8:
        return
    if backend != "transformer_engine":
        raise InputError(
            f"runtime.fp8={fp8} needs the transformer_engine backend, which needs a GPU and the "
            "transformer-engine package: install it, or leave runtime.fp8 empty"
        )
    capability = torch.cuda.get_device_capability()
    if capability < FP8_CAPABILITY:
        found, needed = (".".join(map(str, each)) for each in (capability, FP8_CAPABILITY))
        raise InputError(
            f"runtime.fp8={fp8}: {torch.cuda.get_device_name()} has compute capability {found}, "
            f"FP8 needs {needed} (Ada, Hopper or newer): leave runtime.fp8 empty"
        )


def block_spec(
    backend: str, num_layers: int, ends_in_head: bool, has_qk_norm: bool, recompute: str
) -> TransformerBlockSubmodules:
    """Return the layers from which ``GPTModel`` builds its decoder.

    Args:
        backend: ``torch`` or ``transformer_engine``, as :func:`choose_backend` resolved it.
        num_layers: layers of this pipeline stage.
        ends_in_head: the LM head follows and runs at answer positions only, so the last layer does
            too.
        has_qk_norm: each head's queries and keys are normalised (RMSNorm).
        recompute: none | selective | full.
    """
    if backend == "transformer_engine":
        return _fused_block_spec(num_layers, ends_in_head, has_qk_norm)
    layer = LeanLayer if recompute == "selective" else TransformerLayer
    layers = [_layer_spec(layer, PackedAttention, has_qk_norm)] * num_layers
    if ends_in_head:
        layers[-1] = _layer_spec(HeadLayer, HeadAttention, has_qk_norm)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def _fused_block_spec(
    num_layers: int, ends_in_head: bool, has_qk_norm: bool
) -> TransformerBlockSubmodules:
    """Return Transformer Engine's layers, with the final norm that ``GPTModel`` would take."""
    spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=has_qk_norm)
    layers = [spec] * num_layers
    if ends_in_head:
        head = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=has_qk_norm)
        head.module = HeadLayer
        modules = head.submodules.self_attention.submodules
        modules.core_attention = with_outputs_at_answers(modules.core_attention)
        layers[-1] = head
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=LayerNormImpl)


def _layer_spec(
    layer: type[TransformerLayer],
    attention: type[PackedAttention],
    has_qk_norm: bool,
) -> ModuleSpec:
    spec = get_gpt_layer_local_spec()
    spec.module = layer
    spec.submodules.input_layernorm = RMSNorm
    spec.submodules.pre_mlp_layernorm = RMSNorm
    spec.submodules.mlp.submodules.activation_func = swiglu
    modules = spec.submodules.self_attention.submodules
    modules.core_attention = attention
    if has_qk_norm:
        modules.q_layernorm = modules.k_layernorm = RMSNorm
    return spec
