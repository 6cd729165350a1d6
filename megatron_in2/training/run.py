"""One rank's whole run: join the job, build, train, leave."""

from dataclasses import asdict
from pathlib import Path

import torch

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.checkpoint.source import source_of_step
from megatron_in2.checkpoint.store import CheckpointSaver
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.errors import EXIT_REQUEUE, InputError
from megatron_in2.model.attention_kernels import AttentionKernels, attention_kernels_of
from megatron_in2.model.backend import choose_backend
from megatron_in2.parallel.rank import Rank
from megatron_in2.parallel.world import World, open_world
from megatron_in2.processes import ignore_stop_signals
from megatron_in2.training.arithmetic.gpu_types import peak_of_card
from megatron_in2.training.build import build_training_state
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.callbacks.checkpointing import Checkpointing
from megatron_in2.training.callbacks.loss_watch import LossWatch
from megatron_in2.training.callbacks.metrics_log import MetricsLog
from megatron_in2.training.callbacks.mixture import LumpyDataWarning
from megatron_in2.training.callbacks.probe_accuracy import ProbeAccuracy
from megatron_in2.training.callbacks.profiler import Profiler
from megatron_in2.training.callbacks.rehearsal import Rehearsal, is_rehearsed
from megatron_in2.training.callbacks.step_report import StepReport
from megatron_in2.training.callbacks.stop_on_signal import StopOnSignal, StopSignals
from megatron_in2.training.callbacks.validation import Validation
from megatron_in2.training.checks.agreement import find_disagreement
from megatron_in2.training.checks.hang_watch import START_FACTOR, watch_for_hangs
from megatron_in2.training.checks.notes import notes_on_run
from megatron_in2.training.checks.ownership import own_checkpoints
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.checks.rank_errors import failures_in_one_line, said_by_one_rank
from megatron_in2.training.checks.start_step import start_from_sound_step
from megatron_in2.training.config import TrainConfig, parse_range
from megatron_in2.training.generation.probe_set import ProbeSet
from megatron_in2.training.pulse import Pulse
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.fullest_row import most_trained_tokens
from megatron_in2.training.trainer import fit

MIN_TIMEOUT_MINUTES = 30.0


def run_training(
    config: TrainConfig, inputs: RunInputs, rank: Rank, probes: ProbeSet | None = None
) -> int:
    """Train as one rank of the world.

    Args:
        config: of the run.
        inputs: checked.
        rank: this process.
        probes: answered during the run, the same on every rank.

    Returns:
        The exit code: 0; 75 where a signal ended the run early and it is saved.

    Raises:
        InputError: something that the user must fix; the message has the remedy.
    """
    signals, pulse = StopSignals(), Pulse()
    with (
        failures_in_one_line(config, rank),
        open_world(config.parallel, rank, config.runtime.seed, _timeout_minutes(config)) as world,
        said_by_one_rank(),
        failures_in_one_line(config, rank),
        attention_kernels_of(world.device) as kernels,
    ):
        if difference := find_disagreement(config, inputs, world):
            raise InputError(difference)
        log, stop = None, StopOnSignal(signals)
        with own_checkpoints(config, world), watch_for_hangs(config, world, pulse):
            inputs = start_from_sound_step(config, inputs, world)
            if world.is_main:
                log = MetricsLog(config, inputs.resume_from[1].step if inputs.resume_from else 0)
                print(_first_line(config, inputs, world.size, kernels), flush=True)
                for note in notes_on_run(config, inputs):
                    print(f"NOTE {note}", flush=True)
            state = build_training_state(config, inputs, world, pulse)
            with _saver(config, inputs, pulse) as saver:
                fit(state, _callbacks(state, inputs, log, stop, saver, probes))
        ignore_stop_signals()  # everything is saved
        if log is not None:
            log.close()
        return EXIT_REQUEUE if stop.is_requested else 0


def _timeout_minutes(config: TrainConfig) -> float:
    """Return the limit of a collective: the watch for hangs, which can name ranks, is faster."""
    return max(MIN_TIMEOUT_MINUTES, 2 * START_FACTOR * config.runtime.hang_timeout / 60)


def _saver(config: TrainConfig, inputs: RunInputs, pulse: Pulse) -> CheckpointSaver:
    start = inputs.resume_from[0] if inputs.resume_from else inputs.init_from
    return CheckpointSaver(
        Path(config.checkpoint.dir),
        asdict(config),
        inputs.tokenizer,
        inputs.datasets,
        source_of_step(start) if start else {},
        config.checkpoint.keep_last,
        config.checkpoint.keep_every_steps,
        config.checkpoint.asynchronous,
        pulse.beat,
    )


def _callbacks(
    state: TrainingState,
    inputs: RunInputs,
    log: MetricsLog | None,
    stop: StopOnSignal,
    saver: CheckpointSaver,
    probes: ProbeSet | None,
) -> list[Callback]:
    """Return the run's callbacks, in the order in which their hooks are called."""
    config, world = state.config, state.world
    folder, logging = Path(config.checkpoint.dir), config.logging
    held_out = {
        f"{name}_loss": PackedDataset(Path(prefix))
        for name in ("validation", "probe")
        if (prefix := getattr(config.data, name))
    }
    callbacks: list[Callback] = [
        stop,
        LumpyDataWarning(),
        LossWatch(config.runtime.stop_after_skipped),
    ]
    if is_rehearsed(config.runtime.rehearsal, world.device):
        callbacks.append(Rehearsal(most_trained_tokens([*state.rows.datasets, *held_out.values()])))
    if logging.profile_steps != "" and world.rank in parse_range(
        "logging.profile_ranks", logging.profile_ranks
    ):
        steps = parse_range("logging.profile_steps", logging.profile_steps)
        callbacks.append(Profiler(folder, steps))
    callbacks.append(StepReport(log, logging, _peak_flops(config, world)))
    callbacks += [Validation(name, data, log, logging) for name, data in held_out.items()]
    if probes is not None:
        callbacks.append(ProbeAccuracy(probes, log, logging, folder))
    return [*callbacks, Checkpointing(saver, inputs.tokenizer)]


def _peak_flops(config: TrainConfig, world: World) -> float | None:
    """Return a GPU's peak FLOP/s for MFU; None on a CPU, an unknown card, or in float32."""
    if world.device.type != "cuda" or config.runtime.dtype != "bfloat16":
        return None
    return peak_of_card(torch.cuda.get_device_name(world.device))


def _first_line(
    config: TrainConfig, inputs: RunInputs, world_size: int, kernels: AttentionKernels | None
) -> str:
    parallel = config.parallel
    layout = f"TP{parallel.tensor} PP{parallel.pipeline} CP{parallel.context}"
    layout += f" DP{parallel.data_ranks(world_size)}" + (" SP" if parallel.sequence else "")
    backend = choose_backend(config.runtime.backend)
    if kernels is not None and backend == "torch":
        backend += f", attention by {kernels.name}"
    if inputs.resume_from:
        start = f"resuming from {inputs.resume_from[0]}"
    else:
        start = f"starting from {inputs.init_from or 'fresh weights'}"
    return (
        f"{parameter_count(config.model):,} parameters | {layout} | {config.runtime.dtype} | "
        f"backend {backend} | "
        f"{inputs.rows:,} rows of {config.data.seq_length:,} | {inputs.total_steps:,} steps "
        f"of {config.schedule.global_batch_rows} rows | {start}"
    )
