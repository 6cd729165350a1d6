"""The steps of one seed: data, training, export and probing."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from megatron_in2.commands.start import run_command_line
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.lab.config import Selection
from megatron_in2.lab.seed.influence import write_influence
from megatron_in2.lab.seed.materials import write_probes, write_samples, write_tokenizer
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.seed.training_run import training_arguments
from megatron_in2.lab.study import Study
from megatron_in2.steps import Step


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
