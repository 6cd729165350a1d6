"""The whole road in one go on a small machine: it only calls the commands of ``tools/``.

A later run reuses what stands. The training is killed midway on purpose, and resumed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.files import atomic_file, read_json, read_json_lines, write_json
from megatron_in2.steps import Step, fingerprint_of, run_steps, run_tool, step_seconds

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = Path("configs/quickstart")
HOME = Path("runs/quickstart")
STAMPS = HOME / ".steps"
SAMPLES = HOME / "samples" / "samples.jsonl"
DATASET = HOME / "data" / "in2"
CHECKPOINTS = HOME / "checkpoints"
EXPORT = HOME / "huggingface"
PROOF = HOME / "conversion.json"
PIECES, PROBES = HOME / "pieces", HOME / "probes"
PREDICTIONS = HOME / "predictions" / "document.jsonl"
SCORES, CURVE = HOME / "scores" / "document.json", HOME / "scores" / "document.png"

SEQ_LENGTH = 2048
SAVE_STEP, KILL_STEP = 60, 63  # training is killed after KILL_STEP and resumes from SAVE_STEP
LOSS_WINDOW = 10  # steps whose mean is called first and last loss


def run_quickstart() -> None:
    """Run every step that is not done yet, then print and write the summary."""
    os.chdir(ROOT)
    started = time.monotonic()
    run_steps(_STEPS, STAMPS, _fingerprint())
    report = _report()
    write_json(HOME / "report.json", report)
    with atomic_file(HOME / "report.md") as stream:
        stream.write(_as_markdown(report))
    print(f"\n{_as_markdown(report)}\nall in {time.monotonic() - started:.0f} s; {HOME}/report.md")


def _synthesize() -> None:
    run_tool("synthesize_in2", "--config", CONFIGS / "synthesis.yaml", "--output", SAMPLES)


def _preprocess() -> None:
    run_tool(
        "preprocess_in2",
        *("--input", SAMPLES, "--output-prefix", DATASET),
        *("--tokenizer-model", "mistral-v1", "--seq-length", SEQ_LENGTH),
        *("--validation-fraction", 0.05),
    )


_TRAINING = ("--config", CONFIGS / "train.yaml", "--nproc", 2)


def _train_and_kill() -> None:
    """Train until a checkpoint and a few steps more stand, then kill every process of the run."""
    command = [sys.executable, "tools/train.py", *map(str, _TRAINING)]
    print("    $ python", *command[1:], flush=True)
    saved = CHECKPOINTS / f"iter_{SAVE_STEP:07d}" / "complete.json"
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
    shutil.copyfile(CHECKPOINTS / "metrics.jsonl", HOME / "killed_metrics.jsonl")
    print(f"    killed by SIGKILL after step {_last_step()}, as meant", flush=True)


def _resume() -> None:
    run_tool("train", *_TRAINING)


def _export() -> None:
    run_tool(
        "convert_checkpoint",
        *("megatron-to-hf", "--input", CHECKPOINTS, "--output", EXPORT),
        *("--verify", "--report", PROOF),
    )


def _build_probes() -> None:
    run_tool("probe", "pieces", "--config", CONFIGS / "synthesis.yaml", "--output", PIECES)
    run_tool(
        "probe",
        *("build", "--pieces", PIECES, "--output", PROBES, "--context-tokens", 1536),
        *("--positions", 16, "--sets", 4),
    )


def _probe() -> None:
    labels = PROBES / "document.jsonl"
    run_tool(
        "probe",
        *("generate", "--model", EXPORT, "--probes", labels, "--output", PREDICTIONS),
        *("--max-new-tokens", 24),
    )
    run_tool(
        "probe",
        *("score", "--labels", labels, "--predictions", PREDICTIONS, "--output", SCORES),
        *("--bins", 8),
    )
    run_tool("probe", "plot", "--reports", SCORES, "--output", CURVE)


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


def _fingerprint() -> str:
    """Cover the code, the tools and the quickstart's configs."""
    folders = (("megatron_in2", "**/*.py"), ("tools", "*.py"), (CONFIGS, "*.yaml"))
    return fingerprint_of(path for folder, kind in folders for path in Path(folder).glob(kind))


def _losses(path: Path) -> dict[int, float]:
    lines = (line for _, line in read_json_lines(path))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _last_step() -> int:
    path = CHECKPOINTS / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):  # not there yet, or a line is being written
        return 0


def _report() -> dict[str, Any]:
    train, valid = read_manifest(DATASET), read_manifest(DATASET.with_name("in2_valid"))
    lines = [line for _, line in read_json_lines(CHECKPOINTS / "metrics.jsonl")]
    losses = [line["loss"] for line in lines if "loss" in line]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    resumed, killed = _losses(CHECKPOINTS / "metrics.jsonl"), _losses(HOME / "killed_metrics.jsonl")
    repeated = [step for step in killed if step > SAVE_STEP]
    proof, probe = read_json(PROOF), read_json(SCORES)
    return {
        "samples": train.samples + valid.samples,
        "tokens": train.tokens + valid.tokens,
        "rows": train.rows + valid.rows,
        "packing_efficiency": train.packing_efficiency,
        "learnt_fraction": train.learnt_fraction,
        "steps": len(losses),
        "training_loss_first": fmean(losses[:LOSS_WINDOW]),
        "training_loss_last": fmean(losses[-LOSS_WINDOW:]),
        "validation_loss_first": validation[0],
        "validation_loss_last": validation[-1],
        "tokens_per_second": median(
            line["tokens_per_second"] for line in lines if "tokens_per_second" in line
        ),
        "resume": {
            "from_step": SAVE_STEP,
            "steps_done_twice": repeated,
            "losses_equal": bool(repeated)
            and all(resumed[step] == killed[step] for step in repeated),
        },
        "largest_logit_difference": proof["largest_difference"],
        "probe_accuracy": probe["average"],
        "probe_log_likelihood": fmean(depth["log_likelihood"] for depth in probe["depths"]),
        "step_seconds": step_seconds(_STEPS, STAMPS),
        "files": {
            "samples": str(SAMPLES),
            "dataset": str(DATASET),
            "checkpoints": str(CHECKPOINTS),
            "huggingface": str(EXPORT),
            "probing curve": str(CURVE),
        },
    }


def _as_markdown(report: dict[str, Any]) -> str:
    resume = report["resume"]
    equal = "bit for bit equal" if resume["losses_equal"] else "DIFFERENT"
    rows = [
        ("samples / tokens", f"{report['samples']:,} / {report['tokens']:,}"),
        (
            "packed rows",
            f"{report['rows']:,} of {SEQ_LENGTH:,} tokens, "
            f"{100 * report['packing_efficiency']:.1f} % filled",
        ),
        ("learnt tokens", f"{100 * report['learnt_fraction']:.2f} %"),
        (
            "training loss",
            f"{report['training_loss_first']:.3f} -> {report['training_loss_last']:.3f} "
            f"(means of {LOSS_WINDOW} steps, {report['steps']} steps)",
        ),
        (
            "validation loss",
            f"{report['validation_loss_first']:.3f} -> {report['validation_loss_last']:.3f}",
        ),
        ("speed", f"{report['tokens_per_second']:,.0f} tokens/s"),
        (
            "killed and resumed",
            f"from step {resume['from_step']}; losses of the "
            f"{len(resume['steps_done_twice'])} steps done twice: {equal}",
        ),
        ("largest logit difference", f"{report['largest_logit_difference']:.1e} (float32)"),
        (
            "probe",
            f"accuracy {100 * report['probe_accuracy']:.1f} %, "
            f"{report['probe_log_likelihood']:.2f} log likelihood a token",
        ),
        *((name, f"`{path}`") for name, path in report["files"].items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# Quickstart\n\n| | |\n|---|---|\n{table}\n"
