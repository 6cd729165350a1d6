"""The sizes of a Mistral-architecture model; the defaults are Mistral-7B-Instruct-v0.2's."""

from dataclasses import dataclass

from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig

BACKENDS = ("auto", "torch", "transformer_engine")
LOGITS = ("answers", "all")


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and backend.

    Args:
        num_layers: transformer layers.
        hidden_size: width of the residual stream.
        num_attention_heads: query heads.
        num_query_groups: key/value heads (grouped-query attention).
        head_dim: width of one head.
        ffn_hidden_size: width of the SwiGLU feed-forward layer.
        vocab_size: pieces of the tokenizer, without padding.
        max_position_embeddings: longest sample in tokens.
        rope_theta: base of the rotary frequencies (FILM's ablation: x 10 is better).
        norm_epsilon: epsilon of RMSNorm.
        tie_word_embeddings: share the embedding with the LM head.
        init_std: standard deviation of freshly initialised matrices.
        backend: auto | torch | transformer_engine.
        logits: answers (the LM head, and the torch backend's last layer, run where the loss is) |
            all (everywhere, for comparison).
    """

    num_layers: int = 32
    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_query_groups: int = 8
    head_dim: int = 128
    ffn_hidden_size: int = 14336
    vocab_size: int = 32000
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    init_std: float = 0.02
    backend: str = "auto"
    logits: str = "answers"

    @property
    def parameter_count(self) -> int:
        """Trainable parameters, the embedding and the LM head included."""
        attention = 2 * self.hidden_size * self.head_dim * self.num_attention_heads
        attention += 2 * self.hidden_size * self.head_dim * self.num_query_groups
        feed_forward = 3 * self.hidden_size * self.ffn_hidden_size
        layer = attention + feed_forward + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + embeddings + self.hidden_size

    def padded_vocab_size(self, tensor_parallel: int) -> int:
        """The vocabulary padded to what the tensor-parallel ranks can share evenly."""
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
        if self.backend not in BACKENDS:
            raise InputError(f"model.backend={self.backend!r}: use one of {', '.join(BACKENDS)}")
        if self.logits not in LOGITS:
            raise InputError(f"model.logits={self.logits!r}: use {' or '.join(LOGITS)}")
        if self.head_dim % 2:
            raise InputError(f"model.head_dim={self.head_dim}: rotary embedding needs it even")
        if self.num_attention_heads % self.num_query_groups:
            raise InputError(
                f"model.num_attention_heads={self.num_attention_heads} is not divisible by "
                f"model.num_query_groups={self.num_query_groups}"
            )
        for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size"):
            if getattr(self, name) % parallel.tensor:
                raise InputError(
                    f"model.{name}={getattr(self, name)} is not divisible by "
                    f"parallel.tensor={parallel.tensor}: use a tensor-parallel size that divides it"
                )
        if self.num_layers % parallel.pipeline:
            raise InputError(
                f"model.num_layers={self.num_layers} is not divisible by "
                f"parallel.pipeline={parallel.pipeline}"
            )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"model.{name}={value}: must be 1 or more")
