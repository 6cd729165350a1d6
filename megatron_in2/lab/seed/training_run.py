"""How the ordinary trainer is called for one run of a study."""

from megatron_in2.lab.config import Selection
from megatron_in2.lab.reading import read_yaml
from megatron_in2.lab.seed.materials import CONTROL_PIECES
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import FOLDER, Study

PHASES = FOLDER / "phases"


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
