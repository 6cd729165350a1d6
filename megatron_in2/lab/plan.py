"""The steps of one seed: data, training, export and probing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from megatron_in2.commands.start import run_command_line
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.lab.config import Selection
from megatron_in2.lab.influence import write_influence
from megatron_in2.lab.materials import (
    CONTROL_PIECES,
    write_probes,
    write_samples,
    write_tokenizer,
)
from megatron_in2.lab.reading import read_yaml
from megatron_in2.lab.study import FOLDER, Study
from megatron_in2.steps import Step

PHASES = FOLDER / "phases"


@dataclass(frozen=True)
class SeedFolder:
    """Where one seed's files are."""

    path: Path

    @property
    def tokenizer(self) -> Path:
        return self.path / "words.model"

    def samples(self, dataset: str) -> Path:
        return self.path / "samples" / f"{dataset}.jsonl"

    def rows(self, dataset: str) -> Path:
        return self.path / "data" / dataset

    def probes(self, measure: str) -> Path:
        return self.path / "probes" / f"{measure}.jsonl"

    def checkpoints(self, panel: str, run: str) -> Path:
        return self.path / panel / run / "checkpoints"

    def export(self, panel: str, run: str) -> Path:
        return self.path / panel / run / "huggingface"

    def influence(self, panel: str, arm: str) -> Path:
        return self.path / panel / arm / "influence.json"

    def predictions(self, panel: str, arm: str, measure: str) -> Path:
        return self.path / panel / arm / "predictions" / f"{measure}.jsonl"


def steps_of_seed(study: Study, selection: Selection, seed: int, home: SeedFolder) -> list[Step]:
    """Return one seed's steps in order."""
    return list(_steps(study, selection, seed, home))


def _steps(study: Study, selection: Selection, seed: int, home: SeedFolder) -> Iterator[Step]:
    datasets = dict.fromkeys(study.text.runs[name].data for name in selection.runs)
    yield Step(
        f"seed {seed}: samples -> packed rows, and probes",
        tuple(home.path / name for name in ("samples", "data", "probes")),
        partial(_make_materials, study, selection, seed, home, list(datasets)),
    )
    for panel in selection.panels:
        for run in selection.runs:
            yield _training(study, selection, seed, home, panel, run)
    for panel in selection.panels:
        for arm in selection.arms:
            yield _probing(study, seed, home, panel, arm)


def _make_materials(
    study: Study, selection: Selection, seed: int, home: SeedFolder, datasets: list[str]
) -> None:
    write_tokenizer(home.tokenizer, study.world.words)
    for name, measure in study.measures.items():
        asked = replace(measure, contexts=selection.contexts or measure.contexts)
        # Not by the measure's name: measures of one world share their contexts.
        write_probes(home.probes(name), study.world, asked, f"{seed}/probes")
    for name in datasets:
        full = study.datasets[name]
        dataset = replace(full, samples=max(round(full.samples * selection.scale), 1))
        write_samples(home.samples(name), study.world, dataset, f"{seed}/{name}")
        manifest = preprocess(
            PreprocessConfig(
                input=[home.samples(name)],
                output_prefix=home.rows(name),
                tokenizer_model=str(home.tokenizer),
                seq_length=dataset.row_tokens,
                design=dataset.design,
                pad_multiple=1,
            )
        )["train"]
        print(
            f"    {name}: {manifest.samples:,} samples, {manifest.rows:,} rows of "
            f"{manifest.seq_length:,}, trained on {manifest.learnt_fraction:.1%}",
            flush=True,
        )


def _training(
    study: Study, selection: Selection, seed: int, home: SeedFolder, panel: str, name: str
) -> Step:
    """Return the step that trains one run with the ordinary trainer."""
    run = study.text.runs[name]
    arguments = training_arguments(study, selection, seed, home, panel, name)
    start = f"from {run.start}" if run.start else "from random weights"
    return Step(
        f"{_prefix(study, seed, panel)}: {name}, {run.phase} phase on {run.data}, {start}",
        (home.checkpoints(panel, name),),
        partial(run_command_line, "train", *arguments, "--nproc", selection.processes),
        continues=True,
    )


def training_arguments(
    study: Study, selection: Selection, seed: int, home: SeedFolder, panel: str, name: str
) -> list[object]:
    """Return the training command's arguments for one run: its phase, and what differs from it."""
    run = study.text.runs[name]
    phase = PHASES / f"{run.phase}.yaml"
    steps = read_yaml(phase)["schedule"]["steps"]
    options = {"schedule.steps": steps, **study.text.panels[panel].options, **run.options}
    options |= {
        "schedule.steps": max(round(options["schedule.steps"] * selection.scale), 1),
        "model.vocab_size": len(study.world.words) + CONTROL_PIECES,
        "data.train": home.rows(run.data),
        "data.seq_length": study.datasets[run.data].row_tokens,
        "data.tokenizer_model": home.tokenizer,
        "checkpoint.dir": home.checkpoints(panel, name),
        "runtime.seed": seed,
    }
    if run.start:
        options["checkpoint.init_from"] = home.checkpoints(panel, run.start)
    files = ["--config", PHASES / "model.yaml", "--config", phase]
    return [*files, *(f"--{key}={value}" for key, value in options.items())]


def _probing(study: Study, seed: int, home: SeedFolder, panel: str, arm: str) -> Step:
    """Return the step that exports an arm's last checkpoint and answers the probes with it."""
    run = study.run_of(arm)
    export = home.export(panel, run)
    outputs = {name: home.predictions(panel, arm, name) for name in study.measures}

    def probe() -> None:
        export_checkpoint(home.checkpoints(panel, run), export)
        for name, measure in study.measures.items():
            answerer = CheckpointAnswerer(
                export, max_new_tokens=measure.answer_tokens, batch_size=len(measure.groups)
            )
            generate_predictions(answerer, home.probes(name), outputs[name])
        if study.text.influence:
            write_influence(export, home.probes(next(iter(outputs))), home.influence(panel, arm))

    title = f"{_prefix(study, seed, panel)}: {arm}, export to Hugging Face and probing"
    folder = home.path / panel / arm / "predictions"
    return Step(title, (export, folder), probe)


def _prefix(study: Study, seed: int, panel: str) -> str:
    several = len(study.text.panels) > 1
    return f"seed {seed}, {study.text.panels[panel].title}" if several else f"seed {seed}"
