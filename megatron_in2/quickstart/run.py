"""The steps of the quickstart: commands, each started as a user would, and the smallest study.

A later run reuses the finished steps. The training is killed midway on purpose and resumed.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from megatron_in2.commands.start import (
    child_process,
    command_line,
    print_command,
    run_command_line,
)
from megatron_in2.lab.config import LabConfig, select
from megatron_in2.lab.study import load_study
from megatron_in2.processes import exit_on_stop_signals
from megatron_in2.quickstart.config import QuickstartConfig
from megatron_in2.quickstart.places import Places
from megatron_in2.quickstart.report import (
    KILL_STEP,
    SAVE_STEP,
    SEQ_LENGTH,
    STUDY,
    write_report,
)
from megatron_in2.steps import Step, fingerprint_of, package_files, run_steps, step_seconds

CONFIGS = Path(__file__).parent


def run_quickstart(config: QuickstartConfig) -> None:
    """Run every step that is not done yet, then print and write the summary."""
    exit_on_stop_signals()  # between the commands; while one runs it gets the signal
    started = time.monotonic()
    places = Places.below(config.home)
    steps = _Steps(config, places).all()
    run_steps(steps, places.stamps, fingerprint_of(package_files()))
    table = write_report(places, config.base, step_seconds(steps, places.stamps))
    print(f"\n{table}\nall in {time.monotonic() - started:.0f} s; {places.home}/report.md")


class _Steps:
    """The steps of one quickstart."""

    def __init__(self, config: QuickstartConfig, places: Places) -> None:
        self._places = places
        self._training = (
            *("--config", CONFIGS / "train.yaml", "--config", config.shape, "--nproc", 2),
            *("--data.train", places.dataset, "--data.validation", places.validation),
            *("--checkpoint.dir", places.checkpoints),
        )

    def all(self) -> tuple[Step, ...]:
        places = self._places
        return (
            Step("corpus -> IN2 samples", (places.samples.parent,), self._synthesize),
            Step(
                "samples -> packed rows with answer-only masks",
                (places.dataset.parent,),
                self._preprocess,
            ),
            Step(
                "training on 2 processes (TP2 + sequence parallel), killed midway",
                (places.checkpoints,),
                self._train_and_kill,
            ),
            Step("training resumed to its end", (), self._resume),
            Step(
                "export to Hugging Face, every tensor and the logits compared",
                (places.export, places.proof),
                self._export,
            ),
            Step("probes from the corpus", (places.pieces, places.probes), self._build_probes),
            Step(
                "probing by evidence position",
                (places.predictions.parent, places.scores.parent),
                self._probe,
            ),
            study_step(places),
        )

    def _synthesize(self) -> None:
        run_command_line(
            "synthesize_in2",
            *("--config", CONFIGS / "synthesis.yaml", "--output", self._places.samples),
        )

    def _preprocess(self) -> None:
        run_command_line(
            "preprocess_in2",
            *("--input", self._places.samples, "--output-prefix", self._places.dataset),
            *("--tokenizer-model", "mistral-v1", "--seq-length", SEQ_LENGTH),
            *("--validation-fraction", 0.05),
        )

    def _train_and_kill(self) -> None:
        """Train until a checkpoint and a few more steps are done, then kill the whole run."""
        command = command_line("train", *self._training)
        print_command(command)
        metrics = self._places.checkpoints / "metrics.jsonl"
        saved = self._places.checkpoints / f"iter_{SAVE_STEP:07d}" / "complete.json"
        with child_process(command) as run:
            while run.poll() is None and not (saved.is_file() and _last_step(metrics) >= KILL_STEP):
                time.sleep(0.1)
            run.kill()  # and with it its ranks
            run.wait()
        if run.returncode > 0:
            sys.exit(run.returncode)
        shutil.copyfile(metrics, self._places.killed_metrics)
        print(f"    killed by SIGKILL after step {_last_step(metrics)}, on purpose", flush=True)

    def _resume(self) -> None:
        run_command_line("train", *self._training)

    def _export(self) -> None:
        run_command_line(
            "convert_checkpoint",
            *("megatron-to-hf", "--input", self._places.checkpoints),
            *("--output", self._places.export, "--verify", "--report", self._places.proof),
        )

    def _build_probes(self) -> None:
        places = self._places
        run_command_line(
            "probe",
            *("pieces", "--config", CONFIGS / "synthesis.yaml", "--output", places.pieces),
        )
        run_command_line(
            "probe",
            *("build", "--pieces", places.pieces, "--output", places.probes),
            *("--context-tokens", 1536, "--positions", 16, "--sets", 4),
        )

    def _probe(self) -> None:
        places = self._places
        labels = places.probes / "document.jsonl"
        run_command_line(
            "probe",
            *("generate", "--model", places.export, "--probes", labels),
            *("--output", places.predictions, "--max-new-tokens", 24),
        )
        run_command_line(
            "probe",
            *("score", "--labels", labels, "--predictions", places.predictions),
            *("--output", places.scores, "--bins", 8),
        )
        run_command_line("probe", "plot", "--reports", places.scores, "--output", places.curve)


def study_step(places: Places) -> Step:
    """Return the step that runs the smallest study in this process; it starts trainings."""

    def run() -> None:
        # Imported here: nothing before needs torch in this process.
        from megatron_in2.lab.run import run_study

        study = load_study(STUDY)
        run_study(study, select(study, LabConfig(home=places.lab)))

    title = "the smallest study: does the placement of evidence decide what a model can use?"
    return Step(title, (places.lab,), run, continues=True)


def _last_step(metrics: Path) -> int:
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):  # absent, or a line is being written
        return 0
