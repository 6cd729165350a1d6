"""Qwen 3 (dense)."""

from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder, require_no_bias
from megatron_in2.architectures.windows import require_full_attention


class Qwen3(Decoder):
    """``Qwen3ForCausalLM``: each head's queries and keys are normalised, no biases."""

    model_type = "qwen3"
    class_name = "Qwen3ForCausalLM"
    title = "Qwen 3"
    has_qk_norm = True

    def require_trainable(self, file: ConfigFile) -> None:
        require_no_bias(file, "attention_bias")
        require_full_attention(file)

    def default_sizes(self, file: ConfigFile) -> dict[str, int]:
        return {"head_dim": 128}
