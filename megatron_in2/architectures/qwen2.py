"""Qwen 2 and 2.5 (dense)."""

from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder
from megatron_in2.architectures.windows import require_full_attention


class Qwen2(Decoder):
    """``Qwen2ForCausalLM``: biases on queries, keys and values."""

    model_type = "qwen2"
    class_name = "Qwen2ForCausalLM"
    title = "Qwen 2"
    has_qkv_bias = True

    def require_trainable(self, file: ConfigFile) -> None:
        require_full_attention(file)
