"""The published config.json files of base models, field by field."""

from pathlib import Path
from typing import Any

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of_file

CONFIG = Path("model/config.json")

MISTRAL_7B_V02: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
MISTRAL_7B_V03 = MISTRAL_7B_V02 | {"vocab_size": 32768}
MISTRAL_NEMO = MISTRAL_7B_V02 | {
    "head_dim": 128,
    "hidden_size": 5120,
    "max_position_embeddings": 131072,
    "num_hidden_layers": 40,
    "vocab_size": 131072,
}
MINISTRAL_8B = MISTRAL_7B_V02 | {
    "head_dim": 128,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "rope_theta": 1e8,
    "sliding_window": 32768,
    "vocab_size": 131072,
}
LLAMA_2_7B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAMA_31_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
LLAMA_32_1B = LLAMA_31_8B | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": LLAMA_31_8B["rope_scaling"] | {"factor": 32.0},
    "tie_word_embeddings": True,
}
QWEN25_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_06B = QWEN3_8B | {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
}
QWEN3_4B = QWEN3_8B | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}

PUBLISHED = {
    "Mistral-7B-Instruct-v0.2": MISTRAL_7B_V02,
    "Mistral-7B-Instruct-v0.3": MISTRAL_7B_V03,
    "Mistral-Nemo-12B": MISTRAL_NEMO,
    "Ministral-8B-2410": MINISTRAL_8B,
    "Llama-2-7B": LLAMA_2_7B,
    "Llama-3.1-8B": LLAMA_31_8B,
    "Llama-3.2-1B": LLAMA_32_1B,
    "Qwen2.5-7B": QWEN25_7B,
    "Qwen3-8B": QWEN3_8B,
    "Qwen3-4B": QWEN3_4B,
    "Qwen3-0.6B": QWEN3_06B,
}


def config_file(base: dict[str, Any], **changes: object) -> ConfigFile:
    """A published config with fields changed, or left out ("absent")."""
    values = base | changes
    return ConfigFile(CONFIG, {name: value for name, value in values.items() if value != "absent"})


def read(base: dict[str, Any], **changes: object) -> ModelConfig:
    """What is read of it."""
    file = config_file(base, **changes)
    return architecture_of_file(file).read_config(file)


def newer_form(base: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 5 writes it."""
    values = dict(base)
    scaling = values.pop("rope_scaling", None) or {"rope_type": "default"}
    values["rope_parameters"] = {"rope_theta": values.pop("rope_theta", 1e4), **scaling}
    values["dtype"] = values.pop("torch_dtype")
    if "use_sliding_window" in values:
        values["layer_types"] = ["full_attention"] * values["num_hidden_layers"]
    return values
