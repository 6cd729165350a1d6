"""How the ordinary trainer is called for one run of a study."""

from pathlib import Path

from megatron_in2.checkpoint.folder import complete_steps, read_state
from megatron_in2.commands.start import run_command_line
from megatron_in2.lab.config import Selection
from megatron_in2.lab.reading import read_yaml
from megatron_in2.lab.seed.materials import CONTROL_PIECES
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import FOLDER, Study

PHASES = FOLDER / "phases"


def train(
    study: Study, selection: Selection, seed: int, home: SeedFolder, panel: str, name: str
) -> None:
    """Train one run; if it was interrupted, continue from its last checkpoint."""
    arguments = training_arguments(study, selection, seed, home, panel, name)
    nproc = "--nproc", selection.processes
    turns = study.text.runs[name].turns
    if not turns:
        run_command_line("train", *arguments, *nproc)
        return
    total = _steps(study, selection, panel, name)
    datasets = [_rows(study, home, panel, each) for each in study.datasets_of(name)]
    while (done := _steps_done(home.checkpoints(panel, name))) < total:
        turn, left = turn_at(done, total, turns)
        rows = datasets[turn % len(datasets)]
        changed = f"--data.train={rows}", f"--schedule.exit_after_steps={left}"
        allowed = "--checkpoint.allow_changed_data=true"
        run_command_line("train", *arguments, *changed, allowed, *nproc)


def turn_at(done: int, total: int, turns: int) -> tuple[int, int]:
    """Return whose turn it is after so many steps, and how many steps are left of it."""
    ends = [total * (turn + 1) // turns for turn in range(turns)]
    turn = next(number for number, end in enumerate(ends) if done < end)
    return turn, ends[turn] - done


def training_arguments(
    study: Study, selection: Selection, seed: int, home: SeedFolder, panel: str, name: str
) -> list[object]:
    """Return the training command's arguments for one run: its phase, and what differs from it."""
    run = study.text.runs[name]
    datasets = [_rows(study, home, panel, each) for each in study.datasets_of(name)]
    blend = " ".join(f"{1 / len(datasets):g} {rows}" for rows in datasets)
    options = {**study.text.panels[panel].options, **run.options}
    options |= {
        "schedule.steps": _steps(study, selection, panel, name),
        "model.vocab_size": len(study.world.words) + CONTROL_PIECES,
        "data.train": blend if len(datasets) > 1 else datasets[0],
        "data.seq_length": study.datasets[run.data].row_tokens,
        "data.tokenizer_model": home.tokenizer,
        "checkpoint.dir": home.checkpoints(panel, name),
        "runtime.seed": seed,
    }
    if run.start:
        options["checkpoint.init_from"] = home.checkpoints(panel, run.start)
    files = ["--config", PHASES / "model.yaml", "--config", PHASES / f"{run.phase}.yaml"]
    return [*files, *(f"--{key}={value}" for key, value in options.items())]


def _steps(study: Study, selection: Selection, panel: str, name: str) -> int:
    run = study.text.runs[name]
    phase = read_yaml(PHASES / f"{run.phase}.yaml")["schedule"]["steps"]
    options = {"schedule.steps": phase, **study.text.panels[panel].options, **run.options}
    steps: int = options["schedule.steps"]
    return max(round(steps * selection.scale), 1)


def _rows(study: Study, home: SeedFolder, panel: str, dataset: str) -> Path:
    drawn_from = study.datasets[dataset].drawn_from
    return (home.drawn(panel, drawn_from) if drawn_from else home).rows(dataset)


def _steps_done(checkpoints: Path) -> int:
    """Return the step of a folder's newest complete checkpoint; 0 where it has none."""
    steps = complete_steps(checkpoints)
    return read_state(steps[-1]).step if steps else 0
