"""Checks a run against its files before any rank starts, in seconds and without reading data."""

import shutil
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_in2.architectures.config import POSITION_FIELDS
from megatron_in2.checkpoint.folder import (
    CheckpointState,
    complete_steps,
    read_model_config,
    read_state,
    resolve_checkpoint,
)
from megatron_in2.data.packed.blend import BlendPart, blend_sha256, parse_blend
from megatron_in2.data.packed.manifest import Manifest, read_manifest
from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import Rank
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from megatron_in2.training.arithmetic.memory import checkpoint_bytes
from megatron_in2.training.callbacks.wandb_run import require_wandb
from megatron_in2.training.config import TrainConfig, parse_range


@dataclass(frozen=True)
class RunInputs:
    """The checked inputs of a run.

    Args:
        tokenizer: the run's tokenizer.
        datasets: the training datasets with their weights.
        rows: training rows of one epoch.
        learnt_tokens: tokens in them that are trained on.
        dataset_seals: seal of each data set's manifest, by field and prefix.
        total_steps: optimizer steps of the whole run.
        resume_from: complete step to resume from, with its state; None for a new run.
        init_from: complete step whose weights a new run starts from, if any.
    """

    tokenizer: Tokenizer
    datasets: tuple[BlendPart, ...]
    rows: int
    learnt_tokens: int
    dataset_seals: dict[str, str]
    total_steps: int
    resume_from: tuple[Path, CheckpointState] | None
    init_from: Path | None


def check_run(config: TrainConfig, world_size: int) -> RunInputs:
    """Check configuration, data, tokenizer, checkpoints and free disk of a run.

    Raises:
        InputError: naming the field, its value and the remedy.
    """
    config.validate(world_size)
    _check_backend(config)
    if not config.data.train:
        raise InputError("data.train is empty: name the prefix of a packed dataset")
    blend = parse_blend(config.data.train)
    if not config.checkpoint.dir:
        raise InputError("checkpoint.dir is empty: name a directory to save in")
    if config.logging.wandb_project:
        require_wandb(config.logging.wandb_project)
    tokenizer = load_tokenizer(config.data.tokenizer_model)
    datasets = tuple(
        BlendPart(weight, prefix, _checked_dataset("data.train", str(prefix), config, tokenizer))
        for weight, prefix in blend
    )
    _require_one_template(datasets)
    train = [part.manifest for part in datasets]
    seals = {f"data.train={part.prefix}": part.manifest.seal for part in datasets}
    rows = sum(manifest.rows for manifest in train)
    learnt_tokens = sum(manifest.learnt_tokens for manifest in train)
    for name in ("validation", "probe"):
        if prefix := getattr(config.data, name):
            held_out = _checked_dataset(f"data.{name}", prefix, config, tokenizer)
            _check_held_out(f"data.{name}", prefix, held_out, config, world_size)
            seals[f"data.{name}={prefix}"] = held_out.seal
    if not learnt_tokens:
        raise InputError(f"data.train={config.data.train}: it has no token that is trained on")
    _check_disk(config)
    total_steps = config.schedule.total_steps(rows)
    _check_profile(config, total_steps)
    resume_from = _checked_resume(config, tokenizer, blend_sha256(config.data.train, train))
    init_from = None
    if config.checkpoint.init_from and resume_from is None:
        init_from = resolve_checkpoint(Path(config.checkpoint.init_from))
        _require_same_model(config, init_from)
    return RunInputs(
        tokenizer, datasets, rows, learnt_tokens, seals, total_steps, resume_from, init_from
    )


def check_run_of_rank(config: TrainConfig, rank: Rank) -> RunInputs:
    """Check a run as one rank of a started group: errors name the rank and its host.

    Raises:
        InputError: as :func:`check_run`.
    """
    try:
        return check_run(config, rank.world_size)
    except InputError as error:
        raise InputError(f"rank {rank.index} on {socket.gethostname()}: {error}") from error


def _check_backend(config: TrainConfig) -> None:
    """Refuse here what every rank would refuse, so that there is one line and not one a rank."""
    if config.runtime.backend == "transformer_engine" or config.runtime.fp8:
        # Imported here, so that other runs are checked without the seconds that torch takes.
        from megatron_in2.model.backend import choose_backend, require_fp8

        require_fp8(config.runtime.fp8, choose_backend(config.runtime.backend))


def _checked_dataset(name: str, prefix: str, config: TrainConfig, tokenizer: Tokenizer) -> Manifest:
    manifest = read_manifest(Path(prefix))
    if not manifest.rows:
        raise InputError(f"{name}={prefix} holds no rows: it is a shard without samples; merge it")
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise InputError(
            f"{name}={prefix} was made with another tokenizer than data.tokenizer_model="
            f"{config.data.tokenizer_model} (hash {manifest.tokenizer_sha256[:12]} against "
            f"{tokenizer.sha256[:12]}): name the one it was made with, or preprocess again"
        )
    if manifest.seq_length != config.data.seq_length:
        raise InputError(
            f"{name}={prefix} has rows of {manifest.seq_length} tokens, data.seq_length="
            f"{config.data.seq_length}: set data.seq_length={manifest.seq_length}"
        )
    if manifest.pad_multiple % config.parallel.sample_multiple:
        raise InputError(
            f"{name}={prefix} pads samples to multiples of {manifest.pad_multiple}, this parallel "
            f"layout needs {config.parallel.sample_multiple}: preprocess with --pad-multiple "
            f"{config.parallel.sample_multiple} or use smaller parallel sizes"
        )
    if manifest.vocab_size > config.model.vocab_size:
        raise InputError(
            f"{name}={prefix} has ids up to {manifest.vocab_size}, model.vocab_size="
            f"{config.model.vocab_size}: set model.vocab_size={manifest.vocab_size}"
        )
    return manifest


def _require_one_template(datasets: tuple[BlendPart, ...]) -> None:
    """Refuse a blend that would train one model on two ways to write a prompt."""
    first, *others = datasets
    for other in others:
        if other.manifest.template_sha256 != first.manifest.template_sha256:
            raise InputError(
                f"data.train: {first.prefix} was made with template {first.manifest.template}, "
                f"{other.prefix} with template {other.manifest.template}: a model has one chat "
                "template; preprocess one of them again with --template of the other"
            )


def _check_held_out(
    name: str, prefix: str, manifest: Manifest, config: TrainConfig, world_size: int
) -> None:
    rows = min(config.logging.validation_rows or manifest.rows, manifest.rows)
    ranks = config.parallel.data_ranks(world_size)
    if rows < ranks:
        raise InputError(
            f"{name}={prefix} gives {rows} rows to {ranks} data-parallel ranks: give each at least "
            "one, by more rows or a larger logging.validation_rows"
        )


def _check_disk(config: TrainConfig) -> None:
    """Compare the free disk with the checkpoints to keep plus the one being written."""
    folder = Path(config.checkpoint.dir).absolute()
    while not folder.exists():
        folder = folder.parent
    kept = (config.checkpoint.keep_last or 1) + 1
    existing = len(complete_steps(Path(config.checkpoint.dir)))
    needed = checkpoint_bytes(config) * max(kept - existing, 1)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"checkpoint.dir={config.checkpoint.dir}: {free / 1e9:.1f} GB are free, {kept} "
            f"checkpoints of {checkpoint_bytes(config) / 1e9:.1f} GB need {needed / 1e9:.1f} GB: "
            "free space or lower checkpoint.keep_last"
        )


def _check_profile(config: TrainConfig, total_steps: int) -> None:
    wanted = config.logging.profile_steps
    if wanted != "" and parse_range("logging.profile_steps", wanted)[-1] > total_steps:
        raise InputError(
            f"logging.profile_steps={wanted}: the run ends with step {total_steps}: name "
            "steps before its end"
        )


def _checked_resume(
    config: TrainConfig, tokenizer: Tokenizer, rows_sha256: str
) -> tuple[Path, CheckpointState] | None:
    steps = complete_steps(Path(config.checkpoint.dir))
    if not steps:
        return None
    state = read_state(steps[-1])
    _require_same_model(config, steps[-1])
    changed = {
        "tokenizer": state.tokenizer_sha256 != tokenizer.sha256,
        "training rows": state.dataset_sha256 != rows_sha256,
        "schedule.global_batch_rows": state.global_batch_rows != config.schedule.global_batch_rows,
        "runtime.seed": state.seed != config.runtime.seed,
    }
    found = [name for name, differs in changed.items() if differs]
    if found and not config.checkpoint.allow_changed_data:
        raise InputError(
            f"{steps[-1]} was saved with other {' and '.join(found)}: use what it was saved with, "
            "another checkpoint.dir, or checkpoint.allow_changed_data=true"
        )
    return steps[-1], state


def _require_same_model(config: TrainConfig, step: Path) -> None:
    saved, wanted = asdict(read_model_config(step)), asdict(config.model)
    for name, value in saved.items():
        if name not in POSITION_FIELDS and value != wanted[name]:
            raise InputError(
                f"{step} was saved with model.{name}={value}, the configuration has "
                f"{wanted[name]}: leave it out to take the checkpoint's"
            )
