"""Qwen 3 (dense)."""

from typing import Any

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder, require_no_bias
from megatron_in2.architectures.windows import require_no_window, without_passed_window


class Qwen3(Decoder):
    """``Qwen3ForCausalLM``: each head's queries and keys are normalised, no biases."""

    model_type = "qwen3"
    class_name = "Qwen3ForCausalLM"
    title = "Qwen 3"
    has_qk_norm = True

    def require_trainable(self, file: ConfigFile) -> None:
        require_no_bias(file, "attention_bias")
        require_no_window(file)

    def default_sizes(self, file: ConfigFile) -> dict[str, int]:
        return {"head_dim": 128}

    def update_config(self, source: ConfigFile, config: ModelConfig) -> dict[str, Any]:
        return without_passed_window(source, super().update_config(source, config))
