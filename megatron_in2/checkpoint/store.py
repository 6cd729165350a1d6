"""Saves and loads sharded state through Megatron-Core's ``dist_checkpointing``.

Any layout loads what any other saved: every rank writes parts of whole tensors, under names and
shapes that do not depend on TP, PP, CP or DP. The ranks of a data-parallel group divide the
weights that all of them have, when they save and when they load. Of the optimizer's state each
has its own part.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    TorchDistLoadShardedStrategy,
    TorchDistSaveShardedStrategy,
)
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.folder import (
    CheckpointState,
    describe_checkpoint,
    mark_complete,
    remove_older,
    step_folder,
)
from megatron_in2.checkpoint.optimizer_state import (
    finish_loading,
    prepare_to_load,
    sharded_optimizer_state,
)
from megatron_in2.checkpoint.save_errors import explained
from megatron_in2.checkpoint.shard_writer import ShardWriter
from megatron_in2.checkpoint.source import SourceFiles
from megatron_in2.checkpoint.writer_progress import WriterProgress
from megatron_in2.data.packed.blend import BlendPart
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.tokenizers.base import Tokenizer

_EXTRA_STATE = "_extra_state"
_POLL_SECONDS = 0.02


class CheckpointSaver:
    """Saves the steps of one run, collectively; every rank makes the same calls.

    With ``asynchronous`` a helper process of each rank writes while training continues; a step
    counts once :meth:`poll` or :meth:`wait` has found it written everywhere and its marker exists.
    Used in a ``with`` block, at whose end no helper process of this rank is left.

    Args:
        folder: checkpoints of the run.
        config: the run's resolved configuration, saved with each step.
        tokenizer: the run's; its files are saved with each step.
        datasets: what the run trains on; their manifests and template are saved with each step.
        source: files of the Hugging Face model that the run descends from, saved with each step.
        keep_last: complete steps to keep; 0 keeps all.
        keep_every: also keep steps that are a multiple of it; 0 keeps none for that reason.
        asynchronous: write while training continues.
        on_poll: called whenever a save that the run waits for is looked after.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        tokenizer: Tokenizer,
        datasets: Sequence[BlendPart],
        source: SourceFiles,
        keep_last: int,
        keep_every: int,
        asynchronous: bool,
        on_poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._config = config
        self._tokenizer = tokenizer
        self._datasets = datasets
        self._source = source
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._asynchronous = asynchronous
        self._on_poll = on_poll
        self._writer = ShardWriter()
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
                sharded_state(model, optimizer),
                str(step),
                save_strategy(model),
                async_sharded_save=True,
            )
            request.add_finalize_fn(partial(self._complete, step, state))
            self._queue.schedule_async_request(self._writer.take_over(request))
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
        """Complete what is under way; calls ``on_poll`` as long as this rank's writer gets on."""
        progress = WriterProgress()
        while self._queue.get_num_unfinalized_calls():
            self.poll()
            if progress.has_advanced(self._writers()):
                self._on_poll()
            time.sleep(_POLL_SECONDS)

    def _writers(self) -> list[int]:
        """Return the process ids of this rank's writers that have not ended."""
        writers = [call.async_caller.process for call in self._queue.async_calls]
        return [each.pid for each in writers if each is not None and each.is_alive()]

    def _complete(self, step: Path, state: CheckpointState) -> None:
        is_main = dist.get_rank() == 0
        sums: list[Any] | None = [None] * dist.get_world_size() if is_main else None
        dist.gather_object(self._writer.take_sums(), sums)
        if sums is not None:
            describe_checkpoint(
                step, self._config, state, self._tokenizer, self._datasets, self._source
            )
            written = {name: sum for each in sums for name, sum in each.items()}
            mark_complete(step, state.step, self._tokenizer, written)
            remove_older(self._folder, self._keep_last, self._keep_every)


def load_checkpoint(step: Path, model: AnswerGPTModel, optimizer: MegatronOptimizer) -> None:
    """Load weights and optimizer state, collectively, into any layout."""
    common = dist_checkpointing.load_common_state_dict(str(step))
    prepare_to_load(optimizer, common["optimizer"]["optimizer"]["param_groups"])
    loaded = load_sharded(sharded_state(model, optimizer), step, model)
    _load_into(model, loaded["model"])
    finish_loading(optimizer)


def load_weights(step: Path, model: AnswerGPTModel) -> None:
    """Load weights alone, collectively, into any layout."""
    loaded = load_sharded({"model": model_weights(model)}, step, model)
    _load_into(model, loaded["model"])


def sharded_state(model: AnswerGPTModel, optimizer: MegatronOptimizer) -> dict[str, Any]:
    """Return what a step holds: this rank's weights, and its own part of the optimizer's state."""
    weights = model_weights(model)
    return {"model": weights, "optimizer": sharded_optimizer_state(optimizer, weights)}


def save_strategy(model: AnswerGPTModel) -> FullyParallelSaveStrategyWrapper:
    """Return how weights that all data-parallel ranks have are written: each rank takes a share."""
    return FullyParallelSaveStrategyWrapper(
        TorchDistSaveShardedStrategy("torch_dist", 1), model.pg_collection.dp_cp
    )


def load_sharded(state: dict[str, Any], step: Path, model: AnswerGPTModel) -> dict[str, Any]:
    """Load what is the same on all data-parallel ranks once, and exchange it among them."""
    strategy = FullyParallelLoadStrategyWrapper(
        TorchDistLoadShardedStrategy(), model.pg_collection.dp_cp
    )
    loaded: dict[str, Any] = dist_checkpointing.load(state, str(step), strategy)
    return loaded


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
