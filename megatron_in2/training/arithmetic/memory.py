"""Memory and disk of a run, by part, from its configuration alone.

Activations are counted from the tensors that the torch backend keeps for the backward pass, in
elements a token and layer (H hidden, Q query heads x width, K key/value groups x width, F
feed-forward):

    inputs and outputs of both norms     4 H
    queries, keys, values                Q + 2 K
    rotated queries and keys             Q + K
    attention's output                   Q
    SwiGLU's input and product           3 F
    inputs of the norms of queries and keys, where a family has them    Q + K

Context parallelism keeps the rotated queries (Q), the keys and values of all context ranks (2 K for
each), and the attention's output twice (2 Q), instead of the middle three. Tensor parallelism
divides all but the first line, sequence parallelism also the first. The last layer, which runs at
answers only, keeps its input, a norm's output, queries, keys and values. Temporaries are the
gradients inside the feed-forward layer (3 F), and one or two tensors of hidden size.
``train.py --dry-run --trace`` has the real program's figures.
"""

from dataclasses import dataclass

from megatron_in2.architectures.registry import architecture_of, parameter_count
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
    temporaries: float
    head: float
    host: float

    @property
    def total(self) -> float:
        """The GPU's memory in bytes."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.temporaries
            + self.head
        )


def memory_per_rank(config: TrainConfig, world_size: int) -> Memory:
    """Estimate one rank's memory, on the first pipeline stage, which keeps most micro-batches."""
    parallel, model = config.parallel, config.model
    own = _own_parameters(config)
    width = _dtype_bytes(config)
    moments = MOMENTS + (MASTER if width == 2 else 0)
    optimizer = own * moments / (parallel.data_ranks(world_size) * parallel.context)
    is_offloaded = config.optimizer.cpu_offload
    tokens = config.data.seq_length / parallel.context
    head = 0.0  # at answers only, it is small
    if config.runtime.logits == "all":
        logits = tokens * model.vocab_size / parallel.tensor
        head = tokens * model.hidden_size * width + 2 * 4 * logits  # and gradient, float32
    return Memory(
        weights=own * width,
        gradients=own * 4,
        optimizer=0.0 if is_offloaded else optimizer,
        activations=tokens * width * _activations(config),
        temporaries=tokens * width * _temporaries(config),
        head=head,
        # The state, and a float32 copy of the gradients for the update.
        host=optimizer * (moments + 4) / moments if is_offloaded else 0.0,
    )


def checkpoint_bytes(config: TrainConfig) -> float:
    """Return the bytes of one checkpoint: weights, float32 master weights and moments."""
    return parameter_count(config.model) * (_dtype_bytes(config) + MASTER + MOMENTS)


def _activations(config: TrainConfig) -> float:
    """Return the elements per token of this rank that all its layers keep.

    On the first pipeline stage, 1F1B keeps as many micro-batches as there are stages, each in its
    share of the layers.
    """
    model, parallel, recompute = config.model, config.parallel, config.runtime.recompute
    queries = model.num_attention_heads * model.head_dim / parallel.tensor
    keys = model.num_query_groups * model.head_dim / parallel.tensor
    feed_forward = model.ffn_hidden_size / parallel.tensor
    hidden = model.hidden_size / (parallel.tensor if parallel.sequence else 1)
    extra = architecture_of(model).extra_activations(model) / parallel.tensor
    attention = 3 * queries + 3 * keys + extra
    if parallel.context > 1:
        attention += (2 * parallel.context - 3) * keys
    layer = 4 * hidden + attention + 3 * feed_forward
    if recompute == "full":
        return model.num_layers * hidden + layer  # all inputs, and one layer in full
    kept = layer - (2 * hidden + feed_forward if recompute == "selective" else 0)
    layers = float(model.num_layers)
    last = 0.0
    if parallel.pipeline == 1 and config.runtime.logits == "answers":
        layers -= 1
        last = 2 * hidden + queries + 3 * keys + extra
    return layers * kept + last


def _temporaries(config: TrainConfig) -> float:
    """Return the elements per token of a feed-forward layer's gradients, and of hidden states."""
    model, parallel = config.model, config.parallel
    hidden = model.hidden_size * (2 if parallel.sequence else 1)  # gathered, and to be scattered
    return hidden + 3 * model.ffn_hidden_size / parallel.tensor


def _own_parameters(config: TrainConfig) -> float:
    """Return the parameters of a rank of the first pipeline stage, which has the embedding.

    A head that is tied to it has a copy of its own on the last stage.
    """
    model, parallel = config.model, config.parallel
    if parallel.pipeline == 1:
        return parameter_count(model) / parallel.tensor
    terms = architecture_of(model).flop_terms(model)
    return (terms.body / parallel.pipeline + terms.head) / parallel.tensor


def _dtype_bytes(config: TrainConfig) -> int:
    return 2 if config.runtime.dtype == "bfloat16" else 4
