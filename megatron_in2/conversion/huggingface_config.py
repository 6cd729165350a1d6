"""Reads and writes ``config.json`` of the Mistral architecture, field by field."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.parallel.config import ParallelConfig

CONFIG = "config.json"
DTYPE_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The published 7B releases, by what tells them apart: vocabulary and rotary base.
RELEASES = {(32000, 1e6): "Mistral-7B v0.2", (32768, 1e6): "Mistral-7B v0.3"}

_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "ffn_hidden_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What a ``config.json`` says.

    Args:
        model: the architecture.
        dtype: the dtype it declares for the weights; None where it declares none.
        release: which published model has these sizes; empty for none.
    """

    model: ModelConfig
    dtype: torch.dtype | None
    release: str

    @property
    def summary(self) -> str:
        """One line: the sizes, and the release they belong to."""
        model = self.model
        sizes = (
            f"{model.num_layers} layers x {model.hidden_size}, {model.num_attention_heads} heads "
            f"in {model.num_query_groups} groups, vocabulary {model.vocab_size:,}, rope_theta "
            f"{model.rope_theta:g}, full attention"
        )
        return f"{self.release} ({sizes})" if self.release else sizes


def read_huggingface_config(folder: Path) -> HuggingFaceConfig:
    """Translate ``config.json``.

    Raises:
        InputError: another architecture, a field that is missing or of another type, or a
            feature that this project does not train: sliding window, scaled rotary embedding,
            another activation, quantised weights.
    """
    path = folder / CONFIG
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no JSON object")
    _require_trainable(values, path)
    sizes: dict[str, Any] = {
        ours: _positive(values, theirs, path) for ours, theirs in _SIZES.items()
    }
    theta = _rotary(values).get("rope_theta", values.get("rope_theta", 1e4))
    width = values.get("head_dim") or sizes["hidden_size"] // sizes["num_attention_heads"]
    model = ModelConfig(
        **sizes,
        head_dim=_positive({"head_dim": width}, "head_dim", path),
        rope_theta=_number({"rope_theta": theta}, "rope_theta", path),
        norm_epsilon=_number(values, "rms_norm_eps", path),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        init_std=_number({"initializer_range": 0.02, **values}, "initializer_range", path),
    )
    try:
        model.validate(ParallelConfig())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return HuggingFaceConfig(model, _dtype(values, path), _release(model))


def write_model_config(
    folder: Path, config: ModelConfig, dtype: torch.dtype, bos_id: int, eos_id: int
) -> None:
    """Write ``config.json`` and ``generation_config.json``."""
    tokens = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    write_json(
        folder / CONFIG,
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "head_dim": config.head_dim,
            "initializer_range": config.init_std,
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": config.tie_word_embeddings,
            "torch_dtype": dtype_name(dtype),
            "use_cache": True,
            **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
            **tokens,
        },
    )
    write_json(folder / "generation_config.json", tokens)


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name as ``config.json`` has it."""
    return str(dtype).removeprefix("torch.")


def _require_trainable(values: dict[str, Any], path: Path) -> None:
    kind, names = values.get("model_type"), values.get("architectures") or []
    if kind != "mistral" or not set(names) <= {"MistralForCausalLM"}:
        found = f"model_type={kind!r}" + (f" ({', '.join(map(str, names))})" if names else "")
        raise InputError(
            f"{path}: {found}: only the dense Mistral architecture (MistralForCausalLM) is "
            "converted, since Llama, Mixtral and others differ in layers or in their tokens; "
            "name a Mistral directory"
        )
    if values.get("sliding_window") is not None:
        raise InputError(
            f"{path}: sliding_window={values['sliding_window']}, as in Mistral-7B v0.1: IN2 needs "
            "full attention; use Mistral-7B-Instruct-v0.2 or later"
        )
    rotary = _rotary(values)
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind != "default":
        raise InputError(
            f"{path}: rotary embedding of type {kind!r}: only the unscaled one is trained"
        )
    if values.get("hidden_act", "silu") != "silu":
        raise InputError(f"{path}: hidden_act={values['hidden_act']!r}: only silu is trained")
    if values.get("quantization_config"):
        raise InputError(
            f"{path}: quantization_config is set: quantised weights are not exact; name the "
            "directory of the unquantised model"
        )


def _rotary(values: dict[str, Any]) -> dict[str, Any]:
    return values.get("rope_parameters") or values.get("rope_scaling") or {}


def _positive(values: dict[str, Any], name: str, path: Path) -> int:
    value = _number(values, name, path)
    if value != int(value) or value < 1:
        raise InputError(f"{path}: field {name}={values[name]!r} must be a whole number from 1")
    return int(value)


def _number(values: dict[str, Any], name: str, path: Path) -> float:
    value = values.get(name)
    if value is None:
        raise InputError(f"{path}: field {name} is missing")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{path}: field {name}={value!r} must be a number")
    return float(value)


def _dtype(values: dict[str, Any], path: Path) -> torch.dtype | None:
    name = values.get("dtype") or values.get("torch_dtype")
    if name is None:
        return None
    if name not in DTYPE_NAMES:
        raise InputError(f"{path}: dtype={name!r}: use one of {', '.join(DTYPE_NAMES)}")
    return DTYPE_NAMES[name]


def _release(model: ModelConfig) -> str:
    is_7b = (model.num_layers, model.hidden_size) == (32, 4096)
    return RELEASES.get((model.vocab_size, model.rope_theta), "") if is_7b else ""
