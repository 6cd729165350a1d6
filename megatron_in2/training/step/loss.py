"""The loss on answer tokens, and its sum over micro-batches and ranks.

Derivation. Let A be the answer tokens of the global batch, l(t) their cross entropies, s(t) the
sample of token t, and n(s) the answer tokens of a sample. By token, L = (sum of l(t)) / |A|. By
sample, L = (sum of l(t) / n(s(t))) / (number of samples). Both are one weighted sum over one
integer. Each micro-batch on each rank contributes its weighted sum and its part of the integer.
Megatron-Core accumulates the gradients of the sums, adds gradients and integers over the
data-parallel and context-parallel ranks, and divides once (``calculate_per_token_loss``). A rank
with few answer tokens, or none, therefore contributes in proportion to them; averaging the means
of ranks would give its tokens too much weight.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from megatron_in2.parallel.world import World
from megatron_in2.training.step.batch import Batch

ReportFunction = Callable[[Batch, torch.Tensor], torch.Tensor]
LossResult = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
ForwardStep = Callable[
    [Iterator[Batch], torch.nn.Module],
    tuple[torch.Tensor, Callable[[torch.Tensor], LossResult]],
]


def make_forward_step(report: ReportFunction) -> ForwardStep:
    """Return the function that Megatron-Core's schedules call for each micro-batch.

    Args:
        report: maps a batch and the losses of its answer tokens, float32 [N] in local order, to
            sums, float64 [K], which :func:`global_sums` adds over micro-batches and ranks.
    """

    def forward_step(
        batches: Iterator[Batch], model: torch.nn.Module
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], LossResult]]:
        batch = next(batches)
        output = run_model(model, batch)

        def weighted_loss(token_losses: torch.Tensor) -> LossResult:
            loss_sum = weighted_sum(batch, token_losses)
            normaliser = torch.tensor(batch.normaliser, dtype=torch.int32, device=loss_sum.device)
            return loss_sum, normaliser, report(batch, token_losses.detach())

        return output, weighted_loss

    return forward_step


def run_model(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return what a pipeline stage gives for a row: the last stage, one value an answer token."""
    output: torch.Tensor = model(
        batch.tokens,
        batch.positions,
        None,
        labels=batch.labels,
        loss_mask=batch.loss_mask,
        packed_seq_params=batch.packing,
    )
    return output


def weighted_sum(batch: Batch, token_losses: torch.Tensor) -> torch.Tensor:
    """Return the sum of the answer tokens' losses, weighted by sample; float32 scalar."""
    samples = answer_sequences(batch)
    if not len(samples):
        return token_losses.sum()  # the model's term of weight zero
    return (token_losses * batch.sample_weights[samples]).sum()


def answer_sequences(batch: Batch) -> torch.Tensor:
    """Return the sequence of each answer token, int64 [N]."""
    return batch.sequences[batch.loss_mask.bool()]


def step_report(batch: Batch, token_losses: torch.Tensor) -> torch.Tensor:
    """Return weighted loss sum, normaliser and answer tokens of a batch; float64 [3]."""
    counts = torch.tensor(
        [batch.normaliser, len(answer_sequences(batch))],
        dtype=torch.float64,
        device=token_losses.device,
    )
    return torch.cat([weighted_sum(batch, token_losses).double().view(1), counts])


def global_sums(reports: list[torch.Tensor], size: int, world: World) -> torch.Tensor:
    """Add the micro-batches' reports over all ranks.

    Args:
        reports: this rank's, float64 [size] each; empty on all but the last pipeline stage.
        size: length of a report.
        world: this rank's place.

    Returns:
        float64 [size] on the CPU, the same on every rank.
    """
    sums = torch.zeros(size, dtype=torch.float64, device=world.device)
    for report in reports:
        sums += report
    dist.all_reduce(sums, group=world.data_and_context_group)
    if not (world.is_first_stage and world.is_last_stage):
        dist.broadcast(sums, world.pipeline_last_rank, group=world.pipeline_group)
    return sums.cpu()
