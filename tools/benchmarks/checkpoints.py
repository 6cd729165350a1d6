#!/usr/bin/env python3
r"""Bytes that each rank writes and reads, and host memory, of one checkpoint in each form.

Example:
    python tools/benchmarks/checkpoints.py

Ranks of 2, 4 and 8 data-parallel groups on this machine save and load a small model with its
optimizer's state, once in each form that Megatron-Core 0.16.1 has and once as this package does.
What is loaded must be bitwise what was saved. The host's peak is what the ranks' resident memory
grows by; it is given, as all figures are, for the rank that has most, beside the bytes of one
copy of the state.
"""

import ctypes
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    TorchDistLoadShardedStrategy,
    TorchDistSaveShardedStrategy,
)
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import parameter_count
from megatron_in2.checkpoint.optimizer_state import (
    distributed_optimizer,
    prepare_to_load,
)
from megatron_in2.checkpoint.store import load_sharded, model_weights, save_strategy, sharded_state
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.model.initialisation import initialise_weights
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.parallel.rank import rank_from_environment
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_module, build_optimizer, wrap_for_data_parallelism
from megatron_in2.training.config import (
    DataConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)
from megatron_in2.training.step.own_work import OwnWork

MB = 1e6
SEED = 7


@dataclass(frozen=True)
class Form:
    """One form of the optimizer's state.

    Args:
        name: for the table.
        sharding: Megatron-Core's name of it; empty for this package's.
        memory_efficient: Megatron-Core's flag of the gathered form.
        fully_parallel: the ranks divide what all of them have.
        other_layouts: other sizes of TP, PP and CP can load it.
    """

    name: str
    sharding: str
    memory_efficient: bool = False
    fully_parallel: bool = True
    other_layouts: bool = True


FORMS = (
    Form("fully_reshardable, not divided", "fully_reshardable", fully_parallel=False),
    Form("fully_reshardable", "fully_reshardable"),
    Form("fully_reshardable, memory-efficient", "fully_reshardable", memory_efficient=True),
    Form("dp_reshardable", "dp_reshardable", other_layouts=False),
    Form("fully_sharded_model_space", "fully_sharded_model_space"),
    Form("own parts (this package)", ""),
)


@dataclass(frozen=True)
class Figures:
    """One rank's megabytes and seconds, or why the form cannot be used."""

    written: float = 0.0
    read: float = 0.0
    save_peak: float = 0.0
    load_peak: float = 0.0
    save_seconds: float = 0.0
    load_seconds: float = 0.0
    refused: str = ""


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--folder", type=Path, help="of one rank's results (used by this script)")
    options = parser.read()
    if options.folder:
        _measure_as_rank(_config(options), options.folder)
        return
    count = parameter_count(_config(options).model)
    width = 2 if options.dtype == "bfloat16" else 4
    state = (12 + (width if width == 2 else 0)) * count / MB
    print(
        f"{count / 1e6:.1f} M parameters, {options.dtype}: one copy of the state has {state:.0f} MB"
    )
    print(
        "\n| DP | form | written by a rank, MB | read by a rank, MB | host peak, saving, MB | "
        "host peak, loading, MB | s to save | s to load | other layouts load it |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for ranks in options.ranks:
        for form, figures in zip(FORMS, _measure(options, ranks), strict=True):
            print(f"| {ranks} | {form.name} | {_cells(form, figures)} |", flush=True)


def _config(options: Any) -> TrainConfig:
    hidden = options.hidden_size
    return TrainConfig(
        model=ModelConfig(
            num_layers=options.layers,
            hidden_size=hidden,
            num_attention_heads=hidden // 32,
            num_query_groups=hidden // 128,
            head_dim=32,
            ffn_hidden_size=hidden * 7 // 2,
            max_position_embeddings=512,
        ),
        data=DataConfig(seq_length=512),
        schedule=ScheduleConfig(global_batch_rows=8, steps=1),
        runtime=RuntimeConfig(dtype=options.dtype),
    )


def _cells(form: Form, figures: list[Figures]) -> str:
    if figures[0].refused:
        return f"{figures[0].refused} | | | | | | "
    most = {
        name: max(getattr(each, name) for each in figures)
        for name in asdict(figures[0])
        if name != "refused"
    }
    return (
        f"{most['written']:.1f} | {most['read']:.1f} | {most['save_peak']:.0f} | "
        f"{most['load_peak']:.0f} | {most['save_seconds']:.1f} | {most['load_seconds']:.1f} | "
        f"{'yes' if form.other_layouts else 'DP only'}"
    )


def _measure(options: Any, ranks: int) -> list[list[Figures]]:
    """Start the ranks, and return each form's figures of all of them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.argv, "--folder", folder]
        if code := run_local_ranks(command, ranks):
            raise SystemExit(code)
        lines = json.loads((Path(folder) / "figures.json").read_text())
    return [[Figures(**each[index]) for each in lines] for index in range(len(FORMS))]


def _measure_as_rank(config: TrainConfig, folder: Path) -> None:
    rank = rank_from_environment()
    assert rank is not None
    with open_world(config.parallel, rank, SEED) as world:
        torch.set_num_threads(1)
        module = build_module(config, world)
        initialise_weights(module, config.model, SEED, config.runtime.init_std)
        model = wrap_for_data_parallelism(module, OwnWork(world.device))
        optimizer = build_optimizer(config, model)
        _fill(optimizer, rank.index)
        figures = [asdict(_one_form(form, module, optimizer, folder / "step")) for form in FORMS]
        gathered: list[Any] = [None] * rank.world_size
        dist.all_gather_object(gathered, figures)
        if rank.index == 0:
            (folder / "figures.json").write_text(json.dumps(gathered))


def _fill(optimizer: MegatronOptimizer, seed: int) -> None:
    """Give the optimizer a state of random numbers, different on all ranks."""
    prepare_to_load(optimizer, [{"step": 3}])
    generator = torch.Generator().manual_seed(seed)
    for _, tensor in _state_tensors(optimizer):
        tensor.copy_(torch.rand(tensor.shape, generator=generator))


def _state_tensors(optimizer: MegatronOptimizer) -> Iterator[tuple[str, torch.Tensor]]:
    inner = distributed_optimizer(optimizer).optimizer
    for group in inner.param_groups:
        for parameter in group["params"]:
            yield "param", parameter.detach()
            for name in ("exp_avg", "exp_avg_sq"):
                yield name, inner.state[parameter][name]


def _one_form(
    form: Form, model: AnswerGPTModel, optimizer: MegatronOptimizer, step: Path
) -> Figures:
    if dist.get_rank() == 0:
        shutil.rmtree(step, ignore_errors=True)
        step.mkdir()
    dist.barrier()
    saved = [tensor.clone() for _, tensor in _state_tensors(optimizer)]
    try:
        save_peak, save_seconds, _ = _measured(lambda: _save(form, model, optimizer, step))
    except CheckpointingException as error:
        return Figures(refused=f"refused: {str(error).splitlines()[0]}")
    for _, tensor in _state_tensors(optimizer):
        tensor.zero_()
    dist.barrier()
    load_peak, load_seconds, read = _measured(lambda: _load(form, model, optimizer, step))
    for (name, tensor), expected in zip(_state_tensors(optimizer), saved, strict=True):
        assert torch.equal(tensor, expected), f"{form.name}: {name} is not what was saved"
    written = sum(path.stat().st_size for path in step.glob(f"__{dist.get_rank()}_*.distcp"))
    return Figures(written / MB, read, save_peak, load_peak, save_seconds, load_seconds)


def _save(form: Form, model: AnswerGPTModel, optimizer: MegatronOptimizer, step: Path) -> None:
    strategy = save_strategy(model)
    if not form.fully_parallel:
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1)
    dist_checkpointing.save(_state(form, model, optimizer, False), str(step), strategy)


def _load(form: Form, model: AnswerGPTModel, optimizer: MegatronOptimizer, step: Path) -> None:
    state = _state(form, model, optimizer, True)
    if not form.sharding:
        load_sharded(state, step, model)
        return
    strategy: Any = TorchDistLoadShardedStrategy()
    if form.fully_parallel:
        strategy = FullyParallelLoadStrategyWrapper(strategy, model.pg_collection.dp_cp)
    loaded = dist_checkpointing.load(state, str(step), strategy)
    moments = loaded["optimizer"]["param_state"]
    distributed = distributed_optimizer(optimizer)
    steps = [each.pop("step") for each in distributed.optimizer.state.values()]
    if form.sharding == "dp_reshardable":
        distributed.load_parameter_state_from_dp_reshardable(moments)
    else:
        distributed.load_parameter_state_from_fully_reshardable(moments)
    for each, count in zip(distributed.optimizer.state.values(), steps, strict=True):
        each["step"] = count


def _state(
    form: Form, model: AnswerGPTModel, optimizer: MegatronOptimizer, is_loading: bool
) -> dict[str, Any]:
    if not form.sharding:
        return sharded_state(model, optimizer)
    weights = model_weights(model)
    metadata = {
        "distrib_optim_sharding_type": form.sharding,
        "distrib_optim_fully_reshardable_mem_efficient": form.memory_efficient,
    }
    state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=metadata)
    return {"model": weights, "optimizer": state}


def _measured(action: Callable[[], None]) -> tuple[float, float, float]:
    """Run something; return the MB by which memory grew at its peak, seconds, and MB read."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before, read, started = _status("VmRSS"), _bytes_read(), time.perf_counter()
    action()
    dist.barrier()
    seconds = time.perf_counter() - started
    return (_status("VmHWM") - before) / MB, seconds, (_bytes_read() - read) / MB


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


if __name__ == "__main__":
    run_command(main)
