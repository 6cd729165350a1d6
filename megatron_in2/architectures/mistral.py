"""Mistral: 7B v0.2 and v0.3, Nemo 12B, Ministral 8B (2410)."""

from typing import Any

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder
from megatron_in2.architectures.windows import WINDOW, shortens_attention
from megatron_in2.errors import InputError

# The published 7B releases, by vocabulary and rotary base, in which they differ.
_RELEASES = {(32000, 1e6): "Mistral-7B v0.2", (32768, 1e6): "Mistral-7B v0.3"}
_7B = (32, 4096)  # layers, hidden size


class Mistral(Decoder):
    """``MistralForCausalLM`` with full attention."""

    model_type = "mistral"
    class_name = "MistralForCausalLM"
    title = "Mistral"

    def require_trainable(self, file: ConfigFile) -> None:
        if WINDOW not in file.values:
            raise InputError(
                f"{file.path}: {WINDOW} is missing, and transformers then takes 4,096 tokens: "
                'write "sliding_window": null if the model has full attention'
            )
        if file.get(WINDOW) is not None and shortens_attention(file):
            raise file.refusal(
                WINDOW,
                "it is shorter than max_position_embeddings, as in Mistral-7B v0.1, and only full "
                "attention is trained: use Mistral-7B-Instruct-v0.2 or later",
            )

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        return {**super().write_config(config), WINDOW: None}

    def update_config(self, source: ConfigFile, config: ModelConfig) -> dict[str, Any]:
        """Also remove a sliding window that training has gone beyond.

        Ministral 8B (2410) has a window as long as its positions, so its attention is full. A run
        with more positions trains full attention over all of them.
        """
        fields = super().update_config(source, config)
        if source.get(WINDOW) is not None and shortens_attention(ConfigFile(source.path, fields)):
            fields[WINDOW] = None
        return fields

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
