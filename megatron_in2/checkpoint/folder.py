"""A checkpoint folder: which steps in it are complete, and which files describe their tensors.

DIR/iter_0000100/           Megatron-Core dist_checkpointing files, and
config.yaml                 the run's resolved configuration
state.json                  CheckpointState
tokenizer/                  all files of the run's tokenizer
huggingface/                config.json and generation_config.json that the model came with
datasets.json               weight, prefix and manifest of each dataset that was trained on
instruction_template.json   the template of those datasets
complete.json               size and hash of each file, written last: without it the step does not
                            count

A model that was drawn fresh has no huggingface/. Older checkpoints have none either, the file
``tokenizer.model`` instead of tokenizer/, and ``dataset.json`` instead of the data sets' files: the
manifest of their only dataset.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.checkpoint.integrity import COMPLETE, FileSum, seal_step
from megatron_in2.checkpoint.source import SourceFiles, keep_source
from megatron_in2.data.packed.blend import BlendPart
from megatron_in2.errors import InputError
from megatron_in2.files import (
    atomic_file,
    read_json,
    read_yaml,
    sha256_of_file,
    sync_directory,
    write_json,
)
from megatron_in2.templates.base import Template
from megatron_in2.templates.load import TEMPLATE_FILE, read_template_beside, template_of_values
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

CONFIG = "config.yaml"
STATE = "state.json"
TOKENIZER = "tokenizer"
OLD_TOKENIZER = "tokenizer.model"
DATASETS = "datasets.json"
METRICS = "metrics.jsonl"  # beside the steps
OLD_DATASET = "dataset.json"
DAMAGED = "damaged_"  # before the name of a step that was set aside
LATEST = "latest"
DEFAULT_INIT_STD = 0.02


@dataclass(frozen=True)
class CheckpointState:
    """What a run needs besides tensors to continue exactly.

    Args:
        step: optimizer steps done.
        consumed_rows: rows seen; with the seed they say which rows come next.
        epoch: full passes over the data done.
        global_batch_rows: rows of one step.
        seed: the run's seed: of fresh weights and of the order of rows. Nothing else is random,
            since the architecture has no dropout.
        tokenizer_sha256: which tokenizer.
        dataset_sha256: which training rows (hash of the token file).
        loss: answer loss of the last step.
    """

    step: int
    consumed_rows: int
    epoch: int
    global_batch_rows: int
    seed: int
    tokenizer_sha256: str
    dataset_sha256: str
    loss: float | None


def step_folder(folder: Path, step: int) -> Path:
    """Return where a step is saved."""
    return folder / f"iter_{step:07d}"


def complete_steps(folder: Path) -> list[Path]:
    """Return the complete steps of a checkpoint folder, oldest first."""
    return sorted(path.parent for path in folder.glob(f"iter_*/{COMPLETE}"))


def resolve_checkpoint(path: Path, wanted: str = LATEST) -> Path:
    """Return the step that ``path`` means.

    Args:
        path: one step, or a checkpoint folder.
        wanted: which of a folder's steps: its number, or ``latest`` for the newest complete one.

    Raises:
        InputError: there is none, or it is incomplete.
    """
    if wanted != LATEST:
        if not wanted.isdecimal():
            raise InputError(f"--from {wanted}: name a step's number, or {LATEST}")
        path = step_folder(path, int(wanted))
    if (path / COMPLETE).is_file():
        return path
    steps = complete_steps(path)
    if not steps:
        if (path / "config.json").is_file():
            raise InputError(
                f"{path} is a model in Hugging Face's form: import it with in2 convert "
                "hf-to-megatron, and name the output"
            )
        state = "is incomplete" if (path / CONFIG).exists() else "holds no complete checkpoint"
        raise InputError(f"{path} {state} (no {COMPLETE}): name a checkpoint that was saved whole")
    return steps[-1]


def describe_checkpoint(
    step: Path,
    config: dict[str, Any],
    state: CheckpointState | None,
    tokenizer: Tokenizer,
    datasets: Sequence[BlendPart] = (),
    source: SourceFiles | None = None,
) -> None:
    """Write the files that describe the tensors of a step; :func:`mark_complete` comes last.

    Args:
        step: the step's folder.
        config: the run's resolved configuration.
        state: where the run is; None for weights alone.
        tokenizer: the run's.
        datasets: what was trained on, all of one template; their files are not read, so a
            dataset that has moved since the run began costs no save.
        source: files of the Hugging Face model that the tensors descend from.
    """
    with atomic_file(step / CONFIG) as stream:
        yaml.safe_dump(config, stream, sort_keys=False)
    if state is not None:
        write_json(step / STATE, asdict(state))
    (step / TOKENIZER).mkdir(exist_ok=True)
    for name, path in tokenizer.files.items():
        shutil.copyfile(path, step / TOKENIZER / name)
    keep_source(step, source or {})
    if datasets:
        write_json(
            step / DATASETS,
            [
                {
                    "weight": part.weight,
                    "prefix": str(part.prefix),
                    "manifest": asdict(part.manifest),
                }
                for part in datasets
            ],
        )
        write_json(step / TEMPLATE_FILE, datasets[0].manifest.template_object().values())


def read_datasets(step: Path) -> list[dict[str, Any]]:
    """Return weight, prefix and manifest of each dataset that a step was trained on."""
    if (step / OLD_DATASET).is_file():
        manifest = read_json(step / OLD_DATASET)
        prefix = read_config(step).get("data", {}).get("train", "")
        return [{"weight": 1.0, "prefix": prefix, "manifest": manifest}]
    datasets: list[dict[str, Any]] = (
        read_json(step / DATASETS) if (step / DATASETS).is_file() else []
    )
    return datasets


def read_template(step: Path) -> Template | None:
    """Return the template that a step was trained with; None for a step that was not trained.

    Raises:
        InputError: the file is not readable.
    """
    if (step / OLD_DATASET).is_file():
        return template_of_values(read_json(step / OLD_DATASET)["template_wording"])
    return read_template_beside(step)


def read_tokenizer(step: Path) -> Tokenizer:
    """Load the tokenizer of a complete step.

    Raises:
        InputError: one of its files is not the one that the step was saved with.
    """
    saved = read_json(step / COMPLETE)
    files = saved.get("tokenizer_files", {OLD_TOKENIZER: saved["tokenizer_sha256"]})
    folder = step / TOKENIZER if "tokenizer_files" in saved else step
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file() or sha256_of_file(path) != sha256:
            raise InputError(
                f"{path} is not the tokenizer's file that {step} was saved with: put that one back"
            )
    if folder == step:
        return load_tokenizer(str(step / OLD_TOKENIZER))
    return load_tokenizer(str(folder), saved["tokenizer_sha256"])


def mark_complete(
    step: Path,
    number: int,
    tokenizer: Tokenizer,
    written: Mapping[str, FileSum] | None = None,
) -> None:
    """Declare a step whole, with the hashes of its tokenizer's files.

    Args:
        step: its folder.
        number: optimizer steps done.
        tokenizer: the run's.
        written: files that were hashed, and forced to disk, as they were written.
    """
    files = sorted((step / TOKENIZER).iterdir())
    values = {
        "step": number,
        "tokenizer_sha256": tokenizer.sha256,
        "tokenizer_files": {path.name: sha256_of_file(path) for path in files},
    }
    seal_step(step, values, written or {})


def set_aside(step: Path) -> Path:
    """Take a damaged step out of use, and return where it is now."""
    target = step.with_name(f"{DAMAGED}{step.name}")
    while target.exists():
        target = target.with_name(f"{target.name}_")
    step.rename(target)
    sync_directory(step.parent)
    return target


def damaged_steps(folder: Path) -> list[Path]:
    """Return the steps of a folder that were set aside."""
    return sorted(folder.glob(f"{DAMAGED}iter_*"))


def remove_older(folder: Path, keep_last: int, keep_every: int = 0) -> None:
    """Remove all but the newest complete steps, and what an interrupted save left before them.

    Args:
        folder: checkpoints of a run.
        keep_last: complete steps to keep; 0 keeps all.
        keep_every: also keep complete steps that are a multiple of it; 0 for none.
    """
    steps = complete_steps(folder)
    if not keep_last or not steps:
        return
    kept = set(steps[-keep_last:])
    if keep_every:
        kept |= {step for step in steps if int(step.name.removeprefix("iter_")) % keep_every == 0}
    for path in folder.glob("iter_*"):
        if path not in kept and path < steps[-1]:
            if (path / COMPLETE).exists():
                (path / COMPLETE).unlink()
                sync_directory(path)  # no half of a step may look whole after a power cut
            shutil.rmtree(path, ignore_errors=True)


def read_state(step: Path) -> CheckpointState:
    """Read a step's training state.

    Raises:
        InputError: the step is weights only, or of another version.
    """
    if not (step / STATE).is_file():
        raise InputError(f"{step} holds weights only: use it as checkpoint.init_from")
    values = read_json(step / STATE)
    if set(values) != {item.name for item in fields(CheckpointState)}:
        raise InputError(f"{step / STATE}: fields differ from this version's")
    return CheckpointState(**values)


def read_config(step: Path) -> dict[str, Any]:
    """Read the configuration that a step was saved with."""
    values = read_yaml(step / CONFIG)
    if not isinstance(values, dict) or "model" not in values:
        raise InputError(f"{step / CONFIG} has no model section")
    return values


def read_model_config(step: Path) -> ModelConfig:
    """Read the family and sizes that a step's tensors belong to.

    Raises:
        InputError: its config holds fields that this version does not know.
    """
    try:
        return ModelConfig.from_section(read_config(step)["model"])
    except TypeError as error:
        raise InputError(f"{step / CONFIG}: section model: {error}") from error


def read_init_std(step: Path) -> float:
    """Read with which standard deviation a step's model was, or would have been, drawn."""
    config = read_config(step)
    section = config["model"] if "init_std" in config["model"] else config.get("runtime", {})
    return float(section.get("init_std", DEFAULT_INIT_STD))
