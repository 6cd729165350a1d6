"""Llama 2, 3, 3.1 and 3.2 (text)."""

from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.decoder import Decoder, require_no_bias


class Llama(Decoder):
    """``LlamaForCausalLM`` without biases; 3.1 and later scale their rotary frequencies."""

    model_type = "llama"
    class_name = "LlamaForCausalLM"
    title = "Llama"

    def require_trainable(self, file: ConfigFile) -> None:
        require_no_bias(file, "attention_bias", "mlp_bias")

    def default_sizes(self, file: ConfigFile) -> dict[str, int]:
        return {"num_key_value_heads": file.size("num_attention_heads")}

    def is_derived(self, name: str) -> bool:
        return name.endswith(".rotary_emb.inv_freq")  # in the published files of Llama 2
