"""The steps of the quickstart, each of which starts a command as a user would.

A later run reuses the finished steps. The training is killed midway on purpose and resumed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from megatron_in2.commands.start import command_line, print_command, run_command_line
from megatron_in2.quickstart.places import (
    CHECKPOINTS,
    CURVE,
    DATASET,
    EXPORT,
    HOME,
    KILLED_METRICS,
    PIECES,
    PREDICTIONS,
    PROBES,
    PROOF,
    SAMPLES,
    SCORES,
    STAMPS,
)
from megatron_in2.quickstart.report import KILL_STEP, SAVE_STEP, SEQ_LENGTH, write_report
from megatron_in2.steps import Step, fingerprint_of, package_files, run_steps, step_seconds

CONFIGS = Path(__file__).parent


def run_quickstart() -> None:
    """Run every step that is not done yet, then print and write the summary."""
    started = time.monotonic()
    run_steps(_STEPS, STAMPS, fingerprint_of(package_files()))
    table = write_report(step_seconds(_STEPS, STAMPS))
    print(f"\n{table}\nall in {time.monotonic() - started:.0f} s; {HOME}/report.md")


def _synthesize() -> None:
    run_command_line("synthesize_in2", "--config", CONFIGS / "synthesis.yaml", "--output", SAMPLES)


def _preprocess() -> None:
    run_command_line(
        "preprocess_in2",
        *("--input", SAMPLES, "--output-prefix", DATASET),
        *("--tokenizer-model", "mistral-v1", "--seq-length", SEQ_LENGTH),
        *("--validation-fraction", 0.05),
    )


_TRAINING = ("--config", CONFIGS / "train.yaml", "--nproc", 2)


def _train_and_kill() -> None:
    """Train until a checkpoint and a few more steps are done, then kill the whole run."""
    command = command_line("train", *_TRAINING)
    print_command(command)
    saved = CHECKPOINTS / f"iter_{SAVE_STEP:07d}" / "complete.json"
    # A new session, so that one signal reaches every process of the run.
    run = subprocess.Popen(command, start_new_session=True)
    try:
        while run.poll() is None and not (saved.is_file() and _last_step() >= KILL_STEP):
            time.sleep(0.1)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    if run.returncode > 0:
        sys.exit(run.returncode)
    shutil.copyfile(CHECKPOINTS / "metrics.jsonl", KILLED_METRICS)
    print(f"    killed by SIGKILL after step {_last_step()}, on purpose", flush=True)


def _resume() -> None:
    run_command_line("train", *_TRAINING)


def _export() -> None:
    run_command_line(
        "convert_checkpoint",
        *("megatron-to-hf", "--input", CHECKPOINTS, "--output", EXPORT),
        *("--verify", "--report", PROOF),
    )


def _build_probes() -> None:
    run_command_line("probe", "pieces", "--config", CONFIGS / "synthesis.yaml", "--output", PIECES)
    run_command_line(
        "probe",
        *("build", "--pieces", PIECES, "--output", PROBES, "--context-tokens", 1536),
        *("--positions", 16, "--sets", 4),
    )


def _probe() -> None:
    labels = PROBES / "document.jsonl"
    run_command_line(
        "probe",
        *("generate", "--model", EXPORT, "--probes", labels, "--output", PREDICTIONS),
        *("--max-new-tokens", 24),
    )
    run_command_line(
        "probe",
        *("score", "--labels", labels, "--predictions", PREDICTIONS, "--output", SCORES),
        *("--bins", 8),
    )
    run_command_line("probe", "plot", "--reports", SCORES, "--output", CURVE)


_STEPS = (
    Step("corpus -> IN2 samples", (SAMPLES.parent,), _synthesize),
    Step("samples -> packed rows with answer-only masks", (DATASET.parent,), _preprocess),
    Step(
        "training on 2 processes (TP2 + sequence parallel), killed midway",
        (CHECKPOINTS,),
        _train_and_kill,
    ),
    Step("training resumed to its end", (), _resume),
    Step("export to Hugging Face, every tensor and the logits compared", (EXPORT, PROOF), _export),
    Step("probes from the corpus", (PIECES, PROBES), _build_probes),
    Step("probing by evidence position", (PREDICTIONS.parent, SCORES.parent), _probe),
)


def _last_step() -> int:
    path = CHECKPOINTS / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):  # absent, or a line is being written
        return 0
