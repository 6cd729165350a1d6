"""The quickstart's results, read from the files of its steps."""

from pathlib import Path
from statistics import fmean, median
from typing import Any

from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.files import atomic_file, read_json, read_json_lines, write_json
from megatron_in2.quickstart.places import (
    CHECKPOINTS,
    CURVE,
    DATASET,
    EXPORT,
    HOME,
    KILLED_METRICS,
    PROOF,
    SAMPLES,
    SCORES,
)

SEQ_LENGTH = 2048
SAVE_STEP, KILL_STEP = 60, 63  # training is killed after KILL_STEP and resumes from SAVE_STEP
LOSS_WINDOW = 10  # steps whose mean is reported as the first and the last loss


def write_report(seconds: dict[str, float]) -> str:
    """Write report.json and report.md, and return the table of report.md.

    Args:
        seconds: of each step, by title.
    """
    report = _report(seconds)
    table = _as_markdown(report)
    write_json(HOME / "report.json", report)
    with atomic_file(HOME / "report.md") as stream:
        stream.write(table)
    return table


def _losses(path: Path) -> dict[int, float]:
    lines = (line for _, line in read_json_lines(path))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _report(seconds: dict[str, float]) -> dict[str, Any]:
    train, valid = read_manifest(DATASET), read_manifest(DATASET.with_name("in2_valid"))
    lines = [line for _, line in read_json_lines(CHECKPOINTS / "metrics.jsonl")]
    losses = [line["loss"] for line in lines if "loss" in line]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    resumed, killed = _losses(CHECKPOINTS / "metrics.jsonl"), _losses(KILLED_METRICS)
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
        "step_seconds": seconds,
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
        ("trained on", f"{100 * report['learnt_fraction']:.2f} % of the tokens"),
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
