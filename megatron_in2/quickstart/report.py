"""The quickstart's results, read from the files of its steps."""

from pathlib import Path
from statistics import fmean, median
from typing import Any

from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.files import atomic_file, read_json, read_json_lines, write_json
from megatron_in2.quickstart.places import Places

SEQ_LENGTH = 2048
SAVE_STEP, KILL_STEP = 60, 63  # training is killed after KILL_STEP and resumes from SAVE_STEP
STUDY = "smallest"
LOSS_WINDOW = 10  # steps whose mean is reported as the first and the last loss
_ASKED = {"ends": "about the ends only", "in2": "about all positions (IN2)"}


def write_report(places: Places, base: str, seconds: dict[str, float]) -> str:
    """Write report.json and report.md, and return the table of report.md.

    Args:
        places: where the quickstart wrote.
        base: the base whose form the model has.
        seconds: of each step, by title.
    """
    report = {"base": base} | _report(places, seconds)
    table = _as_markdown(report)
    write_json(places.home / "report.json", report)
    with atomic_file(places.home / "report.md") as stream:
        stream.write(table)
    return table


def _losses(path: Path) -> dict[int, float]:
    lines = (line for _, line in read_json_lines(path))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _report(places: Places, seconds: dict[str, float]) -> dict[str, Any]:
    train, valid = read_manifest(places.dataset), read_manifest(places.validation)
    metrics = places.checkpoints / "metrics.jsonl"
    lines = [line for _, line in read_json_lines(metrics)]
    losses = [line["loss"] for line in lines if "loss" in line]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    resumed, killed = _losses(metrics), _losses(places.killed_metrics)
    repeated = [step for step in killed if step > SAVE_STEP]
    proof, probe = read_json(places.proof), read_json(places.scores)
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
        "study": dict(study_lines(places)),
        "step_seconds": seconds,
        "files": {
            "samples": str(places.samples),
            "dataset": str(places.dataset),
            "checkpoints": str(places.checkpoints),
            "huggingface": str(places.export),
            "probing curve": str(places.curve),
            "study": str(places.lab / STUDY / "position.png"),
        },
    }


def study_lines(places: Places) -> list[tuple[str, str]]:
    """Return what the models of the smallest study answer: a name and a value for each."""
    scores = places.lab / STUDY / "scores" / "position" / "1e4"
    lines = []
    for arm, asked in _ASKED.items():
        report = read_json(scores / arm / "report.json")
        worst = min(depth["accuracy"] for depth in report["depths"])
        answers = f"answers {100 * report['average']:.0f} % of the questions, {100 * worst:.0f} %"
        lines.append((f"model that was asked {asked}", f"{answers} at its worst position"))
    return lines


def _as_markdown(report: dict[str, Any]) -> str:
    resume = report["resume"]
    equal = "bit for bit equal" if resume["losses_equal"] else "DIFFERENT"
    rows = [
        ("form of the model", report["base"]),
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
            f"{report['probe_log_likelihood']:.2f} log likelihood a token "
            f"(accuracy {100 * report['probe_accuracy']:.1f} %)",
        ),
        *((name, f"`{path}`") for name, path in report["files"].items()),
        *report["study"].items(),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# Quickstart\n\n| | |\n|---|---|\n{table}\n"
