"""Runs one rank of a configuration on meta tensors: it is built, warmed up, and does one step.

The second step is recorded. From then on the optimizer's state exists, and gradients are reduced
during the backward pass.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.data.packed.dataset import Row
from megatron_in2.errors import InputError
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.parallel.rank import Rank
from megatron_in2.parallel.replaced import replaced
from megatron_in2.parallel.simulated import Placement, StandIns, open_simulated_world
from megatron_in2.parallel.world import World
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
from megatron_in2.training.step.loss import LossResult, make_forward_step, step_report
from megatron_in2.training.step.own_work import OwnWork
from megatron_in2.training.step.train_step import update_weights
from megatron_in2.training.trace.checkpoint import own_share
from megatron_in2.training.trace.engine.names import engine_names
from megatron_in2.training.trace.events import Trace
from megatron_in2.training.trace.kernels import GPU_KERNELS
from megatron_in2.training.trace.recorder import Recorder
from megatron_in2.training.trace.timeline import RANKS_A_NODE
from megatron_in2.training.trace.traced_row import traced_backend


def run_rank(
    config: TrainConfig,
    rank: int,
    world_size: int,
    micro_batches: int,
    row: Row,
    kernels: StandIns = GPU_KERNELS,
) -> Trace:
    """Run one rank and return what it does in its second step.

    Args:
        config: checked; its data sets are not opened.
        rank: index of the rank.
        world_size: ranks of the job.
        micro_batches: of the step.
        row: of each micro-batch.
        kernels: functions that stand for the kernels of the GPU.

    Raises:
        InputError: what the configuration asks for cannot be traced.
    """
    runtime = config.runtime
    backend = traced_backend(config)
    if runtime.fp8:
        raise InputError("runtime.fp8 cannot be traced: leave it empty")
    if backend == "transformer_engine" and runtime.dtype == "float32":
        raise InputError(
            "runtime.backend=transformer_engine cannot be traced in float32, for which it has no "
            "packed attention: use runtime.dtype=bfloat16, or runtime.backend=torch"
        )
    config = replace(config, runtime=replace(runtime, backend=backend))
    names = engine_names() if backend == "transformer_engine" else {}
    placement = Placement()
    recorder = Recorder(placement)
    place = Rank(rank, world_size, rank % RANKS_A_NODE, RANKS_A_NODE)
    with (
        torch.random.fork_rng(devices=[]),
        open_simulated_world(config.parallel, place, kernels, placement) as world,
        replaced(names),
    ):
        with recorder:
            module, optimizer = _run_steps(config, world, recorder, micro_batches, row)
        checkpoint = own_share(module, optimizer)
    return recorder.stop(checkpoint)


def _run_steps(
    config: TrainConfig, world: World, recorder: Recorder, micro_batches: int, row: Row
) -> tuple[AnswerGPTModel, MegatronOptimizer]:
    """Build the run and do two steps of it; the recorder starts anew before the second."""
    module = build_module(config, world)
    model = wrap_for_data_parallelism(module, OwnWork(torch.device("cpu")))
    optimizer = build_optimizer(config, model)
    set_update_options(config, optimizer)
    module.config.finalize_model_grads_func = _finish_gradients(
        recorder, module.config.finalize_model_grads_func
    )
    batch = make_batch(row, world, config.optimizer.normalisation)
    with recorder.following(module):
        step = _Step(recorder, model, optimizer, batch, world.is_last_stage)
        step.run(micro_batches=1)
        gc.collect()  # an offloaded optimizer is built three times, and in cycles
        _mark(recorder, module, model, optimizer)
        recorder.restart()
        step.run(micro_batches)
    return module, optimizer


@dataclass(frozen=True)
class _Step:
    """What ``train_step`` does, with one batch for every micro-batch."""

    recorder: Recorder
    model: DistributedDataParallel
    optimizer: MegatronOptimizer
    batch: Batch
    has_loss: bool  # this rank has the last pipeline stage

    def run(self, micro_batches: int) -> None:
        self.recorder.phase = "update"
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        self.recorder.phase = "forward"  # the recorder recognises the backward pass itself
        run_schedule(
            self.model,
            len(self.batch.row.tokens),
            self._forward,
            iter([self.batch] * micro_batches),
            micro_batches,
            forward_only=False,
        )
        update_weights(self.optimizer, loss_sum=1.0)

    def _forward(
        self, batches: Iterator[Batch], model: torch.nn.Module
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], LossResult]]:
        """Run a micro-batch's forward pass, and tell the recorder when it is over."""
        output, loss = make_forward_step(step_report)(batches, model)
        if not self.has_loss:
            self.recorder.end_forward()

        def followed_loss(losses: torch.Tensor) -> LossResult:
            result = loss(losses)
            self.recorder.end_forward()
            return result

        return output, followed_loss


def _finish_gradients(recorder: Recorder, finish: Callable[..., None]) -> Callable[..., None]:
    """Tell the recorder that the last backward pass is over and the update begins."""

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
    """Tell the recorder what the tensors that outlive a step are for."""
    recorder.mark((parameter.data for parameter in module.parameters()), "weights")
    recorder.mark((buffer.grad_data for buffer in model.buffers), "gradients")
    for inner in inner_optimizers(optimizer):
        groups = inner.param_groups
        recorder.mark((each.data for group in groups for each in group["params"]), "optimizer")
        states = (value for state in inner.state.values() for value in state.values())
        recorder.mark((each for each in states if isinstance(each, torch.Tensor)), "optimizer")
