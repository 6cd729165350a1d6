"""Memory and disk of a run, by part, from its configuration alone.

Activations are counted from the tensors that the torch backend keeps for the backward pass, in
elements a token and layer (H hidden, Q query heads x width, K key/value groups x width, F
feed-forward):

    both norms' inputs and outputs       4 H
    queries, keys, values                Q + 2 K
    rotated queries and keys             Q + K
    attention's output                   Q
    feed-forward's two halves, the activation and the product    4 F

Sequence parallelism divides each of them among the tensor-parallel ranks.
"""

from dataclasses import dataclass

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.training.config import TrainConfig

GIB = 2**30
MOMENTS = 8  # bytes a parameter: AdamW's two moments, float32
MASTER = 4  # bytes a parameter: float32 copy of bfloat16 weights


@dataclass(frozen=True)
class Memory:
    """Peak memory of one rank in bytes, by part; ``host`` is host memory, the rest the GPU's."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    host: float

    @property
    def total(self) -> float:
        """The GPU's memory in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


def memory_per_rank(config: TrainConfig, world_size: int) -> Memory:
    """Estimate one rank's memory, on the first pipeline stage, which keeps most micro-batches."""
    parallel, model = config.parallel, config.model
    own = _parameters(config) / (parallel.tensor * parallel.pipeline)
    width = _dtype_bytes(config)
    moments = MOMENTS + (MASTER if width == 2 else 0)
    optimizer = own * moments / (parallel.data_ranks(world_size) * parallel.context)
    is_offloaded = config.optimizer.cpu_offload
    tokens = config.data.seq_length / parallel.context
    shared = parallel.tensor if parallel.sequence else 1
    # The head's gathered hidden states, and the logits where they are computed everywhere.
    head = tokens * model.hidden_size * width
    if config.runtime.logits == "all":
        head += 2 * 4 * tokens * model.vocab_size / parallel.tensor  # logits and gradient, float32
    layers = model.num_layers / parallel.pipeline
    in_flight = parallel.pipeline  # 1F1B keeps as many micro-batches on the first stage
    return Memory(
        weights=own * width,
        gradients=own * 4,
        optimizer=0.0 if is_offloaded else optimizer,
        activations=in_flight * tokens * width * _activations(config, layers) / shared,
        head=head,
        # The state, and a float32 copy of the gradients for the update.
        host=optimizer * (moments + 4) / moments if is_offloaded else 0.0,
    )


def checkpoint_bytes(config: TrainConfig) -> float:
    """Return the bytes of one checkpoint: weights, float32 master weights and moments."""
    return _parameters(config) * (_dtype_bytes(config) + MASTER + MOMENTS)


def _activations(config: TrainConfig, layers: float) -> float:
    """Return the elements per token that ``layers`` layers keep, before division among ranks."""
    model = config.model
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    feed_forward = 4 * model.ffn_hidden_size
    layer = 4 * model.hidden_size + 3 * queries + 3 * keys + feed_forward
    if config.runtime.recompute == "full":
        return layers * model.hidden_size + layer  # all inputs, and one layer in full
    if config.runtime.recompute == "selective":
        return layers * (layer - feed_forward) + feed_forward
    return layers * layer


def _parameters(config: TrainConfig) -> int:
    return parameter_count(config.model)


def _dtype_bytes(config: TrainConfig) -> int:
    return 2 if config.runtime.dtype == "bfloat16" else 4
