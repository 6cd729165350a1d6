"""Builds a run: from a checked configuration to model, optimizer and rows."""

from collections.abc import Iterator

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.store import load_checkpoint, load_weights
from megatron_in2.model.build import build_model
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.model.initialisation import initialise_weights
from megatron_in2.parallel.world import World
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.pulse import Pulse
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.own_work import OwnWork, stops_when_called
from megatron_in2.training.step.rows import TrainingRows

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_training_state(
    config: TrainConfig, inputs: RunInputs, world: World, pulse: Pulse | None = None
) -> TrainingState:
    """Build the model, the optimizer and the rows of a run, at the step from which it starts.

    The weights are those of the step that is resumed (with the optimizer's state), else those of
    ``checkpoint.init_from``, else random ones drawn from ``runtime.seed``.
    """
    runtime = config.runtime
    module = build_module(config, world)
    if inputs.resume_from is None:
        if inputs.init_from is not None:
            load_weights(inputs.init_from, module)
        else:
            initialise_weights(module, config.model, runtime.seed, runtime.init_std)
    own_work = OwnWork(world.device)
    model = wrap_for_data_parallelism(module, own_work)
    optimizer = build_optimizer(config, model)
    set_update_options(config, optimizer)
    if inputs.resume_from is not None:
        load_checkpoint(inputs.resume_from[0], module, optimizer)
    start = inputs.resume_from[1] if inputs.resume_from else None
    step, exit_after = start.step if start else 0, config.schedule.exit_after_steps
    return TrainingState(
        config=config,
        world=world,
        model=model,
        optimizer=optimizer,
        rows=TrainingRows(config.data.train, runtime.seed),
        own_work=own_work,
        step=step,
        consumed_rows=start.consumed_rows if start else 0,
        total_steps=inputs.total_steps,
        pulse=pulse or Pulse(),
        stop_at=min(inputs.total_steps, step + exit_after) if exit_after else inputs.total_steps,
    )


def build_module(config: TrainConfig, world: World) -> AnswerGPTModel:
    """Build this rank's part of the model; its weights are still to be set."""
    runtime = config.runtime
    return build_model(
        config.model,
        config.parallel,
        world,
        TORCH_DTYPES[runtime.dtype],
        runtime.recompute,
        runtime.fp8,
        runtime.backend,
        runtime.logits,
    )


def wrap_for_data_parallelism(module: AnswerGPTModel, own_work: OwnWork) -> DistributedDataParallel:
    """Wrap the model so that communication overlaps with computation.

    Gradients are reduced bucket by bucket during the last micro-batch's backward pass; updated
    weights are gathered from their owners just before the layers that need them. Between an
    optimizer step and the next forward pass, a rank therefore has outdated copies of the weights
    that other data-parallel ranks own. Code that reads weights at that point must call
    ``start_param_sync(force_sync=True)`` first.
    """
    model = DistributedDataParallel(
        module.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=True,
            overlap_grad_reduce=True,
            overlap_param_gather=True,
        ),
        module,
    )
    # Called once the gradients are ready, before they are reduced: a rank's own work ends here.
    module.config.finalize_model_grads_func = stops_when_called(own_work, finalize_model_grads)
    module.config.no_sync_func = model.no_sync
    module.config.grad_sync_func = (
        model.start_grad_sync
    )  # at the same moment on all pipeline stages
    return model


def build_optimizer(config: TrainConfig, model: DistributedDataParallel) -> MegatronOptimizer:
    """Build the distributed optimizer of a wrapped model."""
    optimizer = get_megatron_optimizer(_optimizer_config(config), [model])
    model.module.config.grad_scale_func = optimizer.scale_loss
    return optimizer


def set_update_options(config: TrainConfig, optimizer: MegatronOptimizer) -> None:
    """Set each group's weight decay, and the kernel of the update; a checkpoint changes neither.

    Megatron-Core marks the norms' group by ``wd_mult`` 0 and multiplies in its own learning-rate
    scheduler, which this package does not use. torch's fused AdamW reads and writes each tensor
    once instead of ten times, on CPUs and on GPUs; Transformer Engine's has no such choice.
    """
    for group in optimizer.param_groups:
        group["weight_decay"] = config.optimizer.weight_decay * group["wd_mult"]
        if "fused" in group:
            group["fused"] = True


def inner_optimizers(optimizer: MegatronOptimizer) -> Iterator[torch.optim.Optimizer]:
    """Yield the plain optimizers inside: one, or one a device where some state is offloaded."""
    for each in getattr(optimizer, "chained_optimizers", [optimizer]):
        yield from getattr(each.optimizer, "sub_optimizers", [each.optimizer])


def _optimizer_config(config: TrainConfig) -> MegatronOptimizerConfig:
    """Translate the optimizer section.

    Megatron-Core offloads only with its precision-aware optimizer. Its dtypes stay float32 here,
    so the arithmetic is the same. The switch is set after construction, because the constructor
    would require a version of Transformer Engine that the offloading optimizer does not need.
    """
    dtype = TORCH_DTYPES[config.runtime.dtype]
    settings = MegatronOptimizerConfig(
        optimizer="adam",
        lr=config.optimizer.lr,
        min_lr=config.optimizer.min_lr,
        weight_decay=config.optimizer.weight_decay,
        adam_beta1=config.optimizer.beta1,
        adam_beta2=config.optimizer.beta2,
        adam_eps=config.optimizer.eps,
        clip_grad=config.optimizer.clip_grad,
        use_distributed_optimizer=True,
        overlap_param_gather=True,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        optimizer_cpu_offload=config.optimizer.cpu_offload,
        optimizer_offload_fraction=1.0,
        pin_cpu_grads=torch.cuda.is_available(),
    )
    if config.optimizer.cpu_offload:
        settings.use_precision_aware_optimizer = True
        settings.use_precision_aware_optimizer_no_fp8_or_ds_fp8 = True
        settings.store_param_remainders = False
    return settings
