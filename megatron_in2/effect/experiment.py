"""The whole experiment: data, training, export and probing for each seed, then the figure."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from megatron_in2.commands.start import run_command_line
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.effect.arms import DATASETS, RUNS, THETAS, ThetaName
from megatron_in2.effect.config import EffectConfig
from megatron_in2.effect.materials import (
    PROBE_BINS,
    write_probes,
    write_samples,
    write_tokenizer,
)
from megatron_in2.effect.results import report_results
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.steps import Step, fingerprint_of, package_files, run_steps

CONFIGS = Path(__file__).parent / "configs"


def run_effect(config: EffectConfig) -> None:
    """Run the unfinished steps; after each seed, draw the figure from the seeds so far."""
    started = time.monotonic()
    fingerprint = _fingerprint(config)
    for seed in range(1, config.seeds + 1):
        folder = config.home / f"seed{seed}"
        run_steps(list(_steps(config, seed, folder)), folder / ".steps", fingerprint)
        done = [config.home / f"seed{number}" for number in range(1, seed + 1)]
        table = report_results(done, config.home, config.thetas, config.arms)
        minutes = (time.monotonic() - started) / 60
        print(f"\n{table}\n{seed} of {config.seeds} seeds, {minutes:.1f} min; {config.home}/")


def _steps(config: EffectConfig, seed: int, folder: Path) -> Iterator[Step]:
    """Yield one seed's steps in order."""
    prefix, tokenizer = f"seed {seed}", folder / "words.model"
    probes = folder / "probes.jsonl"
    yield Step(
        f"{prefix}: samples -> packed rows, and probes",
        (folder / "samples", folder / "data", probes),
        partial(_make_materials, config, seed, folder, tokenizer, probes),
    )
    for theta in config.thetas:
        for name in config.runs:
            yield _training(config, seed, folder, tokenizer, theta, name)
    for theta in config.thetas:
        for arm in config.arms:
            yield _probing(folder, seed, theta, arm, probes)


def _make_materials(
    config: EffectConfig, seed: int, folder: Path, tokenizer: Path, probes: Path
) -> None:
    write_tokenizer(tokenizer)
    write_probes(probes, config.contexts, f"{seed}/probes")
    for name, full in DATASETS.items():
        dataset = replace(full, samples=round(full.samples * config.scale))
        samples = folder / "samples" / f"{name}.jsonl"
        write_samples(samples, dataset, f"{seed}/{name}")
        manifest = preprocess(
            PreprocessConfig(
                input=[samples],
                output_prefix=folder / "data" / name,
                tokenizer_model=str(tokenizer),
                seq_length=dataset.row_tokens,
                pad_multiple=1,
            )
        )["train"]
        print(
            f"    {name}: {manifest.samples:,} samples, {manifest.rows:,} rows of "
            f"{manifest.seq_length:,}, trained on {manifest.learnt_fraction:.1%}",
            flush=True,
        )


def _training(
    config: EffectConfig, seed: int, folder: Path, tokenizer: Path, theta: ThetaName, name: str
) -> Step:
    """Return the step that trains one run with the ordinary trainer, on two processes."""
    run = RUNS[name]
    phase = CONFIGS / f"{run.phase}.yaml"
    steps = yaml.safe_load(phase.read_text(encoding="utf-8"))["schedule"]["steps"]
    checkpoints = folder / theta / name / "checkpoints"
    options = {
        "model.rope_theta": THETAS[theta],
        "data.train": folder / "data" / run.data,
        "data.tokenizer_model": tokenizer,
        "schedule.steps": max(round(steps * config.scale), 1),
        "checkpoint.dir": checkpoints,
        "runtime.seed": seed,
    }
    if run.start:
        options["checkpoint.init_from"] = folder / theta / run.start / "checkpoints"
    arguments = ["--config", CONFIGS / "model.yaml", "--config", phase, "--nproc", 2]
    arguments += [f"--{key}={value}" for key, value in options.items()]
    start = f"from {run.start}" if run.start else "from random weights"
    return Step(
        f"seed {seed}, theta {theta}: {name}, {run.phase} phase on {run.data}, {start}",
        (checkpoints,),
        partial(run_command_line, "train", *arguments),
        continues=True,
    )


def _probing(folder: Path, seed: int, theta: str, arm: str, probes: Path) -> Step:
    """Return the step that exports an arm's last checkpoint and answers the probes with it."""
    home = folder / theta / arm
    export, predictions = home / "huggingface", home / "predictions"

    def probe() -> None:
        export_checkpoint(home / "checkpoints", export)
        answerer = CheckpointAnswerer(export, max_new_tokens=1, batch_size=PROBE_BINS)
        generate_predictions(answerer, probes, predictions / "facts.jsonl")

    title = f"seed {seed}, theta {theta}: {arm}, export to Hugging Face and probing"
    return Step(title, (export, predictions), probe)


def _fingerprint(config: EffectConfig) -> str:
    """Return a hash of the package and of the options that change a seed's steps."""
    settings = replace(config, seeds=1, home=Path())
    return fingerprint_of(package_files(), repr(settings))
