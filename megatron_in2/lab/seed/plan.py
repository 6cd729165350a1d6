"""The steps of one seed: data, training, export and probing."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.lab.config import Selection
from megatron_in2.lab.seed.attempts import draw_attempts
from megatron_in2.lab.seed.influence import write_influence
from megatron_in2.lab.seed.materials import (
    pack_samples,
    scaled,
    write_judged,
    write_probes,
    write_samples,
    write_tokenizer,
)
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.seed.training_run import train
from megatron_in2.lab.study import Study
from megatron_in2.steps import Step


def steps_of_seed(study: Study, selection: Selection, seed: int, home: SeedFolder) -> list[Step]:
    """Return one seed's steps in order."""
    return list(_steps(study, selection, seed, home))


def _steps(study: Study, selection: Selection, seed: int, home: SeedFolder) -> Iterator[Step]:
    names = dict.fromkeys(name for run in selection.runs for name in study.datasets_of(run))
    datasets = [name for name in names if not study.datasets[name].drawn_from]
    yield Step(
        f"seed {seed}: samples -> packed rows, and probes",
        tuple(home.path / name for name in ("samples", "data", "probes")),
        partial(_make_materials, study, selection, seed, home, datasets),
    )
    for panel in selection.panels:
        for run in selection.runs:
            yield _training(study, selection, seed, home, panel, run)
            drawn = [name for name in names if study.datasets[name].drawn_from == run]
            if drawn:
                yield _drawing(study, selection, seed, home, panel, run, drawn)
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
        dataset = scaled(study.datasets[name], selection)
        write_samples(home.samples(name), study.world, dataset, f"{seed}/{name}")
        packed = pack_samples(dataset, home.samples(name), home.rows(name), home.tokenizer)
        print(f"    {packed}", flush=True)


def _training(
    study: Study, selection: Selection, seed: int, home: SeedFolder, panel: str, name: str
) -> Step:
    """Return the step that trains one run with the ordinary trainer."""
    run = study.text.runs[name]
    data = " and ".join(study.datasets_of(name)) + f", {run.turns} turns" * bool(run.turns)
    start = f"from {run.start}" if run.start else "from random weights"
    return Step(
        f"{_prefix(study, seed, panel)}: {name}, {run.phase} phase on {data}, {start}",
        (home.checkpoints(panel, name),),
        partial(train, study, selection, seed, home, panel, name),
        continues=True,
    )


def _drawing(
    study: Study,
    selection: Selection,
    seed: int,
    home: SeedFolder,
    panel: str,
    run: str,
    datasets: list[str],
) -> Step:
    """Return the step that draws a run's attempts, and makes the samples that hold them."""
    drawn = home.drawn(panel, run)

    def draw() -> None:
        export_checkpoint(home.checkpoints(panel, run), drawn.path / "huggingface")
        chosen = {name: scaled(study.datasets[name], selection) for name in datasets}
        draw_attempts(study.world, chosen, drawn, f"{seed}/{run}")
        for name, dataset in chosen.items():
            packed = pack_samples(dataset, drawn.samples(name), drawn.rows(name), home.tokenizer)
            print(f"    {packed}", flush=True)

    title = f"{_prefix(study, seed, panel)}: attempts of {run} -> {', '.join(datasets)}"
    return Step(title, (drawn.path,), draw)


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
            replies = home.replies(panel, arm, name)
            generate_predictions(answerer, home.probes(name), replies)
            write_judged(measure, home.probes(name), replies, outputs[name])
        if study.text.influence:
            write_influence(export, home.probes(next(iter(outputs))), home.influence(panel, arm))

    title = f"{_prefix(study, seed, panel)}: {arm}, export to Hugging Face and probing"
    folders = (home.path / panel / arm / name for name in ("replies", "predictions"))
    return Step(title, (export, *folders), probe)


def _prefix(study: Study, seed: int, panel: str) -> str:
    several = len(study.text.panels) > 1
    return f"seed {seed}, {study.text.panels[panel].title}" if several else f"seed {seed}"
