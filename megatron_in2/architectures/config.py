"""The sizes of a model; the defaults are those of Mistral-7B-Instruct-v0.2."""

from dataclasses import dataclass, field
from math import gcd
from typing import Any

from megatron_in2.architectures.rope import RopeScaling
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig

# Fields of the positions. A run may change them from the checkpoint that it starts from; all other
# fields determine the shapes of the weights.
POSITION_FIELDS = ("max_position_embeddings", "rope_theta", "rope_scaling")
# Fields that version 1 had here; they are in the section runtime now.
MOVED_TO_RUNTIME = ("init_std", "backend", "logits")


@dataclass(frozen=True)
class ModelConfig:
    """Model family and sizes.

    Args:
        architecture: model family, by the ``model_type`` of its Hugging Face config.
        num_layers: transformer layers.
        hidden_size: width of the residual stream.
        num_attention_heads: query heads.
        num_query_groups: key/value heads (grouped-query attention).
        head_dim: width of one head.
        ffn_hidden_size: width of the SwiGLU feed-forward layer.
        vocab_size: pieces of the tokenizer, without padding.
        max_position_embeddings: longest sample in tokens.
        rope_theta: base of the rotary frequencies (FILM's ablation: x 10 is better).
        rope_scaling: scaling of these frequencies beyond the positions of the pretraining.
        norm_epsilon: epsilon of RMSNorm.
        tie_word_embeddings: share the embedding with the LM head.
    """

    architecture: str = "mistral"
    num_layers: int = 32
    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_query_groups: int = 8
    head_dim: int = 128
    ffn_hidden_size: int = 14336
    vocab_size: int = 32000
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False

    @classmethod
    def from_section(cls, section: dict[str, Any]) -> "ModelConfig":
        """Build the sizes from the section ``model`` of a checkpoint's config, of any version.

        Raises:
            TypeError: the section has a field that this version does not know.
        """
        values = {name: value for name, value in section.items() if name not in MOVED_TO_RUNTIME}
        if "rope_scaling" in values:
            values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
        return cls(**values)

    @property
    def tensor_sizes(self) -> list[int]:
        """Tensor-parallel sizes that divide heads, groups and feed-forward layers evenly."""
        shared = gcd(self.num_attention_heads, self.num_query_groups, self.ffn_hidden_size)
        return [size for size in range(1, shared + 1) if shared % size == 0]

    def padded_vocab_size(self, tensor_parallel: int) -> int:
        """Return the vocabulary size padded to a multiple of the tensor-parallel size."""
        return -(-self.vocab_size // tensor_parallel) * tensor_parallel

    def validate(self, parallel: ParallelConfig) -> None:
        """Check the sizes, alone and against the parallel layout.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        for name in ("num_layers", "hidden_size", "num_attention_heads", "num_query_groups"):
            _require_positive(name, getattr(self, name))
        for name in ("head_dim", "ffn_hidden_size", "vocab_size", "max_position_embeddings"):
            _require_positive(name, getattr(self, name))
        if self.head_dim % 2:
            raise InputError(f"model.head_dim={self.head_dim}: rotary embedding needs it even")
        if self.num_attention_heads % self.num_query_groups:
            raise InputError(
                f"model.num_attention_heads={self.num_attention_heads} is not divisible by "
                f"model.num_query_groups={self.num_query_groups}"
            )
        self.rope_scaling.validate()
        for name in ("num_query_groups", "num_attention_heads", "ffn_hidden_size"):
            if getattr(self, name) % parallel.tensor:
                raise InputError(
                    f"model.{name}={getattr(self, name)} is not divisible by "
                    f"parallel.tensor={parallel.tensor}: use parallel.tensor="
                    f"{' or '.join(map(str, self.tensor_sizes))}, and parallel.context or pipeline "
                    "for more GPUs a replica"
                )
        if self.num_layers % parallel.pipeline:
            raise InputError(
                f"model.num_layers={self.num_layers} is not divisible by "
                f"parallel.pipeline={parallel.pipeline}: use a size that divides it"
            )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"model.{name}={value}: must be 1 or more")
