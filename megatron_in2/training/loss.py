"""The loss on answer tokens, and how it is summed over micro-batches and ranks.

Derivation. Let A be the answer tokens of the global batch and l(t) their cross entropies. The
loss is L = (sum over A of l(t)) / |A|. Each micro-batch on each rank contributes its plain sum and
its count; Megatron-Core accumulates gradients of the sums, adds them and the counts over the
data-parallel and context-parallel ranks, and divides once (``calculate_per_token_loss``). So a
rank or shard with few answer tokens, or none, weighs by its tokens and never by a mean of its own.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from megatron_in2.parallel.world import World
from megatron_in2.training.batch import Batch

LossResult = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def forward_step(
    batches: Iterator[Batch], model: torch.nn.Module
) -> tuple[torch.Tensor, Callable[[torch.Tensor], LossResult]]:
    """Run one micro-batch forward, as Megatron-Core's schedules call it.

    Returns:
        The model's output and the function that turns it, on the last pipeline stage, into (sum
        of answer losses, answer tokens as int32, {"loss_sum", "answer_tokens"}).
    """
    batch = next(batches)
    output = model(
        batch.tokens,
        batch.positions,
        None,
        labels=batch.labels,
        loss_mask=batch.loss_mask,
        packed_seq_params=batch.packing,
    )

    def summed_loss(token_losses: torch.Tensor) -> LossResult:
        loss_sum = token_losses.sum()
        answer_tokens = batch.loss_mask.sum().to(torch.int32)
        report = {
            "loss_sum": loss_sum.detach().double(),
            "answer_tokens": answer_tokens.double(),
        }
        return loss_sum, answer_tokens, report

    return output, summed_loss


def global_sums(reports: list[dict[str, torch.Tensor]], world: World) -> tuple[float, int]:
    """Add the micro-batches' reports over all ranks; every rank gets the result.

    Args:
        reports: this rank's, empty on all but the last pipeline stage.
        world: this rank's place.

    Returns:
        (sum of answer losses, answer tokens).
    """
    sums = torch.zeros(2, dtype=torch.float64, device=world.device)
    for report in reports:
        sums += torch.stack([report["loss_sum"], report["answer_tokens"]])
    dist.all_reduce(sums, group=world.data_and_context_group)
    if not (world.is_first_stage and world.is_last_stage):
        dist.broadcast(sums, world.pipeline_last_rank, group=world.pipeline_group)
    return float(sums[0]), int(sums[1])
