"""Memory and disk of a run, by part, from its configuration alone.

Activations are counted from the tensors that the torch backend keeps for the backward pass, in
elements a token and layer (H hidden, Q query heads x width, K key/value groups x width, F
feed-forward):

    inputs and outputs of both norms     4 H
    queries, keys, values                Q + 2 K
    rotated queries and keys             Q + K
    attention's output                   Q
    SwiGLU's input and product           3 F
    input of the queries' norm, where a family has one    Q

Context parallelism keeps the rotated queries (Q), the keys and values of all context ranks (2 K for
each), and the attention's output twice (2 Q), instead of the middle three. The input of the keys'
norm is a view of queries, keys and values, and keeps them whole there: Q + 2 K more. With one
key/value group on a rank, that of the queries' norm is such a view too and keeps nothing itself.
Tensor parallelism divides all but the first line, sequence parallelism also the first. The last
layer, which runs at answers only, keeps its input, a norm's output, queries, keys and values.
Temporaries are the gradients inside the feed-forward layer (3 F), and one or two tensors of hidden
size. ``train.py --dry-run --trace`` has the real program's figures.
"""

from dataclasses import dataclass
from typing import Literal

from megatron_in2.architectures.registry import architecture_of, parameter_count
from megatron_in2.training.config import TrainConfig

Stage = Literal["first", "middle", "last"]
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


def memory_per_rank(config: TrainConfig, world_size: int, stage: Stage = "first") -> Memory:
    """Estimate one rank's memory.

    Args:
        config: of the run.
        world_size: ranks of the job.
        stage: of the pipeline. The first keeps most micro-batches; of the middle ones, this is the
            second stage. Without a pipeline, all are one.
    """
    parallel, model = config.parallel, config.model
    own = _own_parameters(config, stage)
    in_flight = _in_flight(config, world_size, stage)
    width = _dtype_bytes(config)
    moments = MOMENTS + (MASTER if width == 2 else 0)
    optimizer = own * moments / (parallel.data_ranks(world_size) * parallel.context)
    is_offloaded = config.optimizer.cpu_offload
    tokens = config.data.seq_length / parallel.context
    head = 0.0  # at answers only, it is small
    if config.runtime.logits == "all" and _has_head(config, stage):
        logits = tokens * model.vocab_size / parallel.tensor
        head = tokens * model.hidden_size * width + 2 * 4 * logits  # and gradient, float32
    return Memory(
        weights=own * width,
        gradients=own * 4,
        optimizer=0.0 if is_offloaded else optimizer,
        activations=tokens * width * _activations(config, stage, in_flight),
        temporaries=tokens * width * _temporaries(config),
        head=head,
        # The state, and a float32 copy of the gradients for the update.
        host=optimizer * (moments + 4) / moments if is_offloaded else 0.0,
    )


def checkpoint_bytes(config: TrainConfig) -> float:
    """Return the bytes of one checkpoint: weights, float32 master weights and moments."""
    return parameter_count(config.model) * (_dtype_bytes(config) + MASTER + MOMENTS)


def _in_flight(config: TrainConfig, world_size: int, stage: Stage) -> int:
    """Return how many micro-batches a stage keeps at once (1F1B)."""
    parallel = config.parallel
    in_step = config.schedule.global_batch_rows // parallel.data_ranks(world_size)
    kept = {"first": parallel.pipeline, "middle": parallel.pipeline - 1, "last": 1}[stage]
    return min(kept, in_step)


def _has_head(config: TrainConfig, stage: Stage) -> bool:
    return config.parallel.pipeline == 1 or stage == "last"


def _activations(config: TrainConfig, stage: Stage, in_flight: int) -> float:
    """Return the elements per token of this rank that all its layers keep.

    Args:
        config: of the run.
        stage: of the pipeline.
        in_flight: micro-batches that are kept at once.
    """
    model, parallel, recompute = config.model, config.parallel, config.runtime.recompute
    queries = model.num_attention_heads * model.head_dim / parallel.tensor
    keys = model.num_query_groups * model.head_dim / parallel.tensor
    feed_forward = model.ffn_hidden_size / parallel.tensor
    hidden = model.hidden_size / (parallel.tensor if parallel.sequence else 1)
    extra = architecture_of(model).extra_activations(model) / parallel.tensor
    viewed = queries + 2 * keys if extra else 0.0
    if model.num_query_groups == parallel.tensor:
        extra = 0.0
    attention = 3 * queries + 3 * keys + extra
    if parallel.context > 1:
        attention += (2 * parallel.context - 3) * keys + viewed
    layer = 4 * hidden + attention + 3 * feed_forward
    layers = model.num_layers / parallel.pipeline * in_flight
    if recompute == "full":
        return layers * hidden + layer  # all inputs, and one layer in full
    kept = layer - (2 * hidden + feed_forward if recompute == "selective" else 0)
    last = 0.0
    if _has_head(config, stage) and config.runtime.logits == "answers":
        layers -= 1
        last = 2 * hidden + queries + 3 * keys + extra
    return layers * kept + last


def _temporaries(config: TrainConfig) -> float:
    """Return the elements per token of a feed-forward layer's gradients, and of hidden states."""
    model, parallel = config.model, config.parallel
    hidden = model.hidden_size * (2 if parallel.sequence else 1)  # gathered, and to be scattered
    return hidden + 3 * model.ffn_hidden_size / parallel.tensor


def _own_parameters(config: TrainConfig, stage: Stage) -> float:
    """Return the parameters of a rank: layers, and the embedding or the head beside them.

    A head that is tied to the embedding has a copy of its own on the last stage.
    """
    model, parallel = config.model, config.parallel
    if parallel.pipeline == 1:
        return parameter_count(model) / parallel.tensor
    terms = architecture_of(model).flop_terms(model)
    outer = 0 if stage == "middle" else terms.head
    return (terms.body / parallel.pipeline + outer) / parallel.tensor


def _dtype_bytes(config: TrainConfig) -> int:
    return 2 if config.runtime.dtype == "bfloat16" else 4
