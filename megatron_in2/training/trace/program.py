"""Runs one rank of a configuration on meta tensors: it is built, warmed up, and does one step.

The step that counts is the second one: from then on gradients are reduced while the backward pass
runs, and the optimizer's state exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.data.packed.dataset import Row
from megatron_in2.data.packed.manifest import SAMPLE_RECORD
from megatron_in2.errors import InputError
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.parallel.rank import Rank
from megatron_in2.parallel.simulated import Placement, StandIns, open_simulated_world
from megatron_in2.training.build import (
    build_module,
    build_optimizer,
    inner_optimizers,
    set_update_options,
    wrap_for_data_parallelism,
)
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.state import run_schedule
from megatron_in2.training.step.batch import Batch, make_batch
from megatron_in2.training.step.loss import ForwardStep, LossResult, make_forward_step, step_report
from megatron_in2.training.step.own_work import OwnWork
from megatron_in2.training.step.train_step import update_weights
from megatron_in2.training.trace.kernels import GPU_KERNELS
from megatron_in2.training.trace.recorder import Recorder

RANKS_A_NODE = 8


@dataclass(frozen=True)
class TracedRow:
    """The row that every micro-batch of a trace has.

    Args:
        samples: of it, all as long.
        learnt_tokens: trained on, at the row's end.
    """

    samples: int = 1
    learnt_tokens: int = 1

    def of_length(self, tokens: int, multiple: int) -> Row:
        """Return the row.

        Raises:
            InputError: it does not hold so many samples of whole chunks.
        """
        if tokens % (self.samples * multiple):
            raise InputError(
                f"a row of {tokens:,} tokens cannot hold {self.samples} samples that are multiples "
                f"of {multiple}: trace another number of samples"
            )
        mask = np.zeros(tokens, np.uint8)
        mask[tokens - self.learnt_tokens :] = 1
        length = tokens // self.samples
        records = np.zeros(self.samples, SAMPLE_RECORD)
        records["length"] = length
        return Row(-1, np.zeros(tokens, np.int64), mask, [length] * self.samples, records)


def run_rank(
    config: TrainConfig,
    rank: int,
    world_size: int,
    micro_batches: int,
    row: TracedRow,
    capability: tuple[int, int],
    kernels: StandIns = GPU_KERNELS,
) -> Recorder:
    """Run one rank and return what it did in its second step.

    Args:
        config: checked; its data sets are not opened.
        rank: which rank.
        world_size: of how many.
        micro_batches: of the step.
        row: of each micro-batch.
        capability: compute capability of the GPU that is simulated.
        kernels: functions that stand for the kernels of the GPU.

    Raises:
        InputError: what the configuration asks for cannot be traced.
    """
    if config.runtime.backend == "transformer_engine" or config.runtime.fp8:
        raise InputError(
            "runtime.backend=transformer_engine and runtime.fp8 cannot be traced: Transformer "
            "Engine's kernels run on GPUs only; trace runtime.backend=torch"
        )
    config = replace(config, runtime=replace(config.runtime, backend="torch"))
    packed = row.of_length(config.data.seq_length, config.parallel.sample_multiple)
    placement = Placement()
    recorder = Recorder(placement)
    seat = Rank(rank, world_size, rank % RANKS_A_NODE, RANKS_A_NODE)
    with (
        torch.random.fork_rng(devices=[]),
        open_simulated_world(config.parallel, seat, capability, kernels, placement) as world,
        recorder,
    ):
        module = build_module(config, world)
        model = wrap_for_data_parallelism(module, OwnWork(torch.device("cpu")))
        optimizer = build_optimizer(config, model)
        set_update_options(config, optimizer, world)
        module.config.finalize_model_grads_func = _finish_gradients(
            recorder, module.config.finalize_model_grads_func
        )
        batch = make_batch(packed, world, config.optimizer.normalisation)
        with recorder.following(module):
            _step(recorder, model, optimizer, batch, micro_batches=1)
            _mark(recorder, module, model, optimizer)
            recorder.restart()
            _step(recorder, model, optimizer, batch, micro_batches)
    recorder.stop()
    return recorder


def _step(
    recorder: Recorder,
    model: DistributedDataParallel,
    optimizer: MegatronOptimizer,
    batch: Batch,
    micro_batches: int,
) -> None:
    """Do what ``train_step`` does, with one batch for every micro-batch."""
    recorder.phase = "update"
    model.zero_grad_buffer()
    optimizer.zero_grad()
    recorder.phase = "forward"  # while the schedule runs; the recorder knows the backward pass
    forward_step = _followed(recorder, make_forward_step(step_report))
    length = len(batch.row.tokens)
    run_schedule(model, length, forward_step, iter([batch] * micro_batches), micro_batches, False)
    update_weights(optimizer, loss_sum=1.0)


def _followed(recorder: Recorder, forward_step: ForwardStep) -> ForwardStep:
    """Tell the recorder when a micro-batch's forward pass is over: loss included, where it has one."""

    def followed(batches: Iterator[Batch], model: torch.nn.Module):  # type: ignore[no-untyped-def]
        output, loss = forward_step(batches, model)
        recorder.end_forward()

        def followed_loss(losses: torch.Tensor) -> LossResult:
            result = loss(losses)
            recorder.end_forward()
            return result

        return output, followed_loss

    return followed


def _finish_gradients(recorder: Recorder, finish: Callable[..., None]) -> Callable[..., None]:
    """Tell the recorder that what follows the last backward pass belongs to the update."""

    def finishing(*arguments: Any, **named: Any) -> None:
        recorder.phase = "update"
        finish(*arguments, **named)

    return finishing


def _mark(
    recorder: Recorder,
    module: AnswerGPTModel,
    model: DistributedDataParallel,
    optimizer: MegatronOptimizer,
) -> None:
    """Say what the tensors that outlive a step are for."""
    recorder.mark((parameter.data for parameter in module.parameters()), "weights")
    recorder.mark((buffer.grad_data for buffer in model.buffers), "gradients")
    for inner in inner_optimizers(optimizer):
        groups = inner.param_groups
        recorder.mark((each.data for group in groups for each in group["params"]), "optimizer")
        states = (value for state in inner.state.values() for value in state.values())
        recorder.mark((each for each in states if isinstance(each, torch.Tensor)), "optimizer")
