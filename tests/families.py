"""Small random transformers models of every family, in odd shapes.

Head widths differ from hidden size / heads where the family allows it, the vocabulary is a prime,
and where frequencies are scaled the longest sample is eight times the original positions.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_in2.files import read_json, write_json

POSITIONS = 512
VOCABULARY = 1009
_SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 6.5,
    "low_freq_factor": 1.25,
    "high_freq_factor": 5.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"model_type": "mistral", "head_dim": 20, "sliding_window": None},
    "mistral window": {"model_type": "mistral", "head_dim": 8, "sliding_window": POSITIONS},
    "mistral yarn": {"model_type": "mistral", "sliding_window": None, "rope_parameters": _YARN},
    "llama 2": {"model_type": "llama", "num_key_value_heads": 4},
    "llama 3.1": {"model_type": "llama", "head_dim": 20, "rope_parameters": _LLAMA3},
    "llama 3.2": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_parameters": _LLAMA3 | {"factor": 32.0},
    },
    "llama yarn": {
        "model_type": "llama",
        "rope_parameters": _YARN | {"beta_fast": 16.0, "attention_factor": 1.3},
    },
    "qwen 2.5": {"model_type": "qwen2", "rms_norm_eps": 1e-6},
    "qwen 2.5 tied yarn": {
        "model_type": "qwen2",
        "num_attention_heads": 6,
        "tie_word_embeddings": True,
        "rope_parameters": _YARN,
    },
    "qwen 3": {"model_type": "qwen3", "head_dim": 20},
    "qwen 3 tied yarn": {
        "model_type": "qwen3",
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_parameters": _YARN | {"truncate": False},
    },
}
ONE_GROUP = ("mistral", "llama 3.1", "llama 3.2", "qwen 2.5", "qwen 3")


def random_model(name: str, **changes: Any) -> Any:
    """Build a family's model in float32; every weight is random, norms and biases too.

    Weights are larger than a fresh model's, so that attention and logits are far from uniform and
    a misplaced row shows.
    """
    values = _SIZES | FAMILIES[name] | changes
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:  # fresh norms are all one: a swap of two would not show
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter_name.endswith("bias"):  # fresh biases are all zero
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def save_model(
    name: str,
    folder: Path,
    tokenizer: Path,
    dtype: torch.dtype = torch.float32,
    form: int = 5,
    **changes: Any,
) -> Path:
    """Save a family's model with a tokenizer, its config in the form of transformers 4 or 5."""
    model = random_model(name, **changes).to(dtype)
    model.save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    if form == 4:
        write_json(folder / "config.json", older_form(read_json(folder / "config.json")))
    return folder


def older_form(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config.json as transformers 4 writes them."""
    values = {name: value for name, value in fields.items() if name != "layer_types"}
    rotary = values.pop("rope_parameters")
    values["rope_theta"] = rotary.pop("rope_theta")
    values["rope_scaling"] = rotary if rotary["rope_type"] != "default" else None
    values["torch_dtype"] = values.pop("dtype")
    return values
