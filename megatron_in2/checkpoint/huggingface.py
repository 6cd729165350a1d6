"""Reads and writes Hugging Face checkpoint directories of the Mistral architecture."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.model.config import ModelConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPE_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HuggingFaceReader:
    """A directory's tensors, read one at a time from memory-mapped safetensors.

    Raises:
        InputError: no safetensors, an index that names an absent shard, or a broken file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, Any] = {}
        if (folder / INDEX).is_file():
            self._shard_of: dict[str, str] = read_json(folder / INDEX)["weight_map"]
        elif (folder / SINGLE).is_file():
            self._shard_of = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        else:
            hint = " (pickled weights are not read: save it again as safetensors)"
            pickled = hint if list(folder.glob("*.bin")) else ""
            raise InputError(f"{folder} holds no {SINGLE} and no {INDEX}{pickled}")

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._shard_of)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read one tensor and check its shape.

        Raises:
            InputError: it is missing or has another shape.
        """
        if name not in self._shard_of:
            raise InputError(f"{self.folder}: tensor {name} is missing")
        try:
            tensor: torch.Tensor = self._open(self._shard_of[name]).get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"{self.folder}: tensor {name}: {error}") from error
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{self.folder}: tensor {name} has shape {tuple(tensor.shape)}, config.json "
                f"makes it {shape}"
            )
        return tensor

    def _open(self, shard: str) -> Any:
        if shard not in self._shards:
            if not (self.folder / shard).is_file():
                raise InputError(f"{self.folder / INDEX} names {shard}, which does not exist")
            try:
                self._shards[shard] = safe_open(self.folder / shard, framework="pt")
            except SafetensorError as error:
                raise InputError(f"{self.folder / shard} is damaged: {error}") from error
        return self._shards[shard]


def read_model_config(folder: Path) -> ModelConfig:
    """Translate ``config.json``, field by field.

    Raises:
        InputError: another architecture, or a feature that this project does not train.
    """
    path = folder / "config.json"
    values = read_json(path)
    if values.get("model_type") != "mistral":
        raise InputError(f"{path}: model_type {values.get('model_type')!r}: only mistral is read")
    if values.get("sliding_window") is not None:
        raise InputError(
            f"{path}: sliding_window={values['sliding_window']} (Mistral v0.1): IN2 needs full "
            "attention; use v0.2 or later"
        )
    theta = values.get("rope_theta") or values.get("rope_parameters", {}).get("rope_theta", 1e4)
    try:
        heads, hidden = values["num_attention_heads"], values["hidden_size"]
        return ModelConfig(
            num_layers=values["num_hidden_layers"],
            hidden_size=hidden,
            num_attention_heads=heads,
            num_query_groups=values["num_key_value_heads"],
            head_dim=values.get("head_dim") or hidden // heads,
            ffn_hidden_size=values["intermediate_size"],
            vocab_size=values["vocab_size"],
            max_position_embeddings=values["max_position_embeddings"],
            rope_theta=float(theta),
            norm_epsilon=values["rms_norm_eps"],
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            init_std=values.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise InputError(f"{path}: field {error} is missing") from error


def write_model_config(
    folder: Path, config: ModelConfig, dtype: str, bos_id: int, eos_id: int
) -> None:
    """Write ``config.json`` and ``generation_config.json``."""
    tokens = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    write_json(
        folder / "config.json",
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": config.hidden_size,
            "initializer_range": config.init_std,
            "intermediate_size": config.ffn_hidden_size,
            "max_position_embeddings": config.max_position_embeddings,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_layers,
            "num_key_value_heads": config.num_query_groups,
            "head_dim": config.head_dim,
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": config.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": True,
            "vocab_size": config.vocab_size,
            **tokens,
        },
    )
    write_json(folder / "generation_config.json", tokens)


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int
) -> None:
    """Write tensors, in order, to safetensors shards of at most ``shard_bytes`` and their index."""
    weight_map: dict[str, int] = {}
    pending: dict[str, torch.Tensor] = {}
    shards: list[Path] = []
    total = pending_bytes = 0

    def flush() -> None:
        nonlocal pending, pending_bytes
        path = folder / f"shard-{len(shards)}.safetensors"
        save_file(pending, path, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(pending, len(shards)))
        shards.append(path)
        pending, pending_bytes = {}, 0

    for name, tensor in tensors:
        if pending and pending_bytes + tensor.nbytes > shard_bytes:
            flush()
        pending[name] = tensor.contiguous()
        pending_bytes += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        shards[0].rename(folder / SINGLE)
        return
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for path, name in zip(shards, names, strict=True):
        path.rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {tensor: names[shard] for tensor, shard in weight_map.items()},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
