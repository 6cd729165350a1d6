"""Mistral: Mistral-7B v0.2 and v0.3."""

from typing import Any

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder

# The published 7B releases, by what tells them apart: vocabulary and rotary base.
_RELEASES = {(32000, 1e6): "Mistral-7B v0.2", (32768, 1e6): "Mistral-7B v0.3"}
_7B = (32, 4096)  # layers, hidden size


class Mistral(Decoder):
    """``MistralForCausalLM`` with full attention."""

    model_type = "mistral"
    class_name = "MistralForCausalLM"
    title = "Mistral"

    def require_trainable(self, file: ConfigFile) -> None:
        if file.get("sliding_window") is not None:
            raise file.refusal(
                "sliding_window",
                "Mistral-7B v0.1 has such a window, and IN2 needs full attention: use "
                "Mistral-7B-Instruct-v0.2 or later",
            )

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        return {**super().write_config(config), "sliding_window": None}

    def release(self, config: ModelConfig) -> str:
        is_7b = (config.num_layers, config.hidden_size) == _7B
        return _RELEASES.get((config.vocab_size, config.rope_theta), "") if is_7b else ""

    def doubts(self, config: ModelConfig) -> list[str]:
        is_7b = (config.num_layers, config.hidden_size) == _7B
        if not is_7b or self.release(config):
            return []
        return [
            "not Mistral-7B v0.2 or v0.3, which have rope_theta=1e+06 and 32,000 or 32,768 "
            f"pieces: here rope_theta={config.rope_theta:g}, {config.vocab_size:,} pieces"
        ]
