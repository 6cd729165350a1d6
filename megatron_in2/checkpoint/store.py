"""Saves and loads sharded state through Megatron-Core's ``dist_checkpointing``.

Any layout loads what any other saved: tensors are stored whole, under names and shapes that do
not depend on TP, PP, CP or DP.
"""

import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.folder import (
    CheckpointState,
    describe_checkpoint,
    mark_complete,
    remove_older,
    step_folder,
)
from megatron_in2.checkpoint.save_errors import explained
from megatron_in2.checkpoint.shard_writer import use_mailbox_for_results, written_here
from megatron_in2.checkpoint.source import SourceFiles
from megatron_in2.data.packed.blend import BlendPart
from megatron_in2.model.gpt import AnswerGPTModel

# The only sharding of optimizer state that any layout can load.
_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}
_EXTRA_STATE = "_extra_state"
_POLL_SECONDS = 0.02
# Settings that an offloading optimizer keeps in its groups, some of them classes, which no
# checkpoint should hold: runs with and without offloading so load each other's.
_OFFLOADING = (
    "offload_fraction",
    "cpu_optimizer_cls",
    "gpu_optimizer_cls",
    "param_update_in_fp32",
    "pin_cpu_grads",
    "pin_cpu_params",
    "overlap_cpu_optimizer_d2h_h2d",
    "fused",
)


class CheckpointSaver:
    """Saves the steps of one run, collectively; every rank makes the same calls.

    With ``asynchronous`` a helper process of each rank writes while training continues; a step
    counts once :meth:`poll` or :meth:`wait` has found it written everywhere and its marker exists.
    Used in a ``with`` block, at whose end no helper process of this rank is left.

    Args:
        folder: checkpoints of the run.
        config: the run's resolved configuration, saved with each step.
        tokenizer: the run's tokenizer file, saved with each step.
        datasets: what the run trains on; their manifests and template are saved with each step.
        source: files of the Hugging Face model that the run descends from, saved with each step.
        keep_last: complete steps to keep; 0 keeps all.
        keep_every: also keep steps that are a multiple of it; 0 keeps none for that reason.
        asynchronous: write while training continues.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        tokenizer: Path,
        datasets: Sequence[BlendPart],
        source: SourceFiles,
        keep_last: int,
        keep_every: int,
        asynchronous: bool,
    ) -> None:
        self._folder = folder
        self._config = config
        self._tokenizer = tokenizer
        self._datasets = datasets
        self._source = source
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._asynchronous = asynchronous
        use_mailbox_for_results()
        self._queue = AsyncCallsQueue()
        self._under_way = folder  # the step that is being saved

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(self, *unused: object) -> None:
        for call in self._queue.async_calls:  # only where the run ends by an exception
            if call.async_caller.process is not None:  # a rank may have nothing to write
                call.async_caller.process.kill()

    def save(
        self, model: AnswerGPTModel, optimizer: MegatronOptimizer, state: CheckpointState
    ) -> Path:
        """Save one step, or start to; a save that is still under way is waited for first."""
        self.wait()
        step = self._under_way = step_folder(self._folder, state.step)
        with explained(step):
            if dist.get_rank() == 0:
                shutil.rmtree(step, ignore_errors=True)  # what an interrupted save left
                step.mkdir(parents=True)
            dist.barrier()
            request = dist_checkpointing.save(
                _sharded_state(model, optimizer, is_loading=False),
                str(step),
                async_sharded_save=True,
            )
            request.add_finalize_fn(partial(self._complete, step, state))
            self._queue.schedule_async_request(written_here(request))
        if not self._asynchronous:
            self.wait()
        return step

    def poll(self) -> None:
        """Complete a save that all ranks have finished writing; costs one small reduction."""
        if not self._queue.get_num_unfinalized_calls():
            return
        with explained(self._under_way):
            self._queue.maybe_finalize_async_calls()

    def wait(self) -> None:
        """Complete what is under way."""
        while self._queue.get_num_unfinalized_calls():
            self.poll()
            time.sleep(_POLL_SECONDS)

    def _complete(self, step: Path, state: CheckpointState) -> None:
        if dist.get_rank() == 0:
            describe_checkpoint(
                step, self._config, state, self._tokenizer, self._datasets, self._source
            )
            mark_complete(step, state.step)
            remove_older(self._folder, self._keep_last, self._keep_every)


def load_checkpoint(step: Path, model: AnswerGPTModel, optimizer: MegatronOptimizer) -> None:
    """Load weights and optimizer state, collectively, into any layout."""
    _allocate_moments(_distributed(optimizer).optimizer)
    loaded = dist_checkpointing.load(_sharded_state(model, optimizer, is_loading=True), str(step))
    _load_into(model, loaded["model"])
    _load_optimizer(_distributed(optimizer), loaded["optimizer"])


def load_weights(step: Path, model: AnswerGPTModel) -> None:
    """Load weights alone, collectively, into any layout."""
    loaded = dist_checkpointing.load({"model": model_weights(model)}, str(step))
    _load_into(model, loaded["model"])


def _sharded_state(
    model: AnswerGPTModel, optimizer: MegatronOptimizer, is_loading: bool
) -> dict[str, Any]:
    weights = model_weights(model)
    state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_METADATA)
    for group in state["optimizer"]["param_groups"]:
        for name in _OFFLOADING:
            group.pop(name, None)
    return {"model": weights, "optimizer": state}


def model_weights(model: AnswerGPTModel) -> dict[str, Any]:
    """Return this rank's weights, without the extra state that linear layers have.

    It is empty in Megatron-Core's own layers. Transformer Engine's hold their FP8 scales there,
    in the delayed recipe alone, which this project does not use: checkpoints of both backends
    are so the same.
    """
    state = model.sharded_state_dict()
    return {name: value for name, value in state.items() if not name.endswith(_EXTRA_STATE)}


def _load_into(model: AnswerGPTModel, weights: dict[str, Any]) -> None:
    """Set every weight; Transformer Engine's layers would insist on their extra state too."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    absent = [name for name in missing if not name.endswith(_EXTRA_STATE)]
    assert not absent, absent
    assert not unexpected, unexpected


def _distributed(optimizer: MegatronOptimizer) -> DistributedOptimizer:
    """Return the one distributed optimizer that a dense model has."""
    (only,) = getattr(optimizer, "chained_optimizers", [optimizer])
    assert isinstance(only, DistributedOptimizer)
    return only


def _allocate_moments(inner: torch.optim.Optimizer) -> None:
    """Give the optimizer the state that loading fills; Megatron-Core's own leaves out ``step``.

    An offloading optimizer allocates by a step over random gradients: weights must load later.
    """
    if isinstance(inner, HybridDeviceOptimizer):
        inner.dummy_step()
    elif isinstance(inner, torch.optim.AdamW):
        for group in inner.param_groups:
            for parameter in group["params"]:
                inner.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def _load_optimizer(optimizer: DistributedOptimizer, state: dict[str, Any]) -> None:
    """Load groups first, moments second, with torch's ``step`` kept out of the second.

    Megatron-Core 0.16.1 asks the saved moments for a ``step`` that it never saves there, and sets
    one tensor for all parameters, which AdamW would advance once a parameter.
    """
    moments = state.pop("param_state")
    optimizer.load_state_dict(state)
    states = list(optimizer.optimizer.state.values())
    counts = [each.pop("step", None) for each in states]
    optimizer.load_parameter_state_from_fully_reshardable(moments)
    for each, count in zip(states, counts, strict=True):
        if count is not None:
            each["step"] = count.clone()
    if isinstance(optimizer.optimizer, HybridDeviceOptimizer):
        for group in optimizer.optimizer.param_groups:
            group["fused"] = True  # the fast kernel again, which no checkpoint names
