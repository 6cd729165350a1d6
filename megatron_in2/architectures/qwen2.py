"""Qwen 2 and 2.5 (dense)."""

from typing import Any

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder
from megatron_in2.architectures.windows import require_no_window, without_passed_window


class Qwen2(Decoder):
    """``Qwen2ForCausalLM``: biases on queries, keys and values."""

    model_type = "qwen2"
    class_name = "Qwen2ForCausalLM"
    title = "Qwen 2"
    has_qkv_bias = True

    def require_trainable(self, file: ConfigFile) -> None:
        require_no_window(file)

    def update_config(self, source: ConfigFile, config: ModelConfig) -> dict[str, Any]:
        return without_passed_window(source, super().update_config(source, config))
