"""Draws probing curves: accuracy and answer likelihood by evidence position."""

from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file, read_json


def plot_reports(reports: list[Path], output: Path) -> None:
    """Draw the reports that ``score`` wrote into one picture, its format by the file's ending.

    Raises:
        InputError: a report is missing or is none, or the ending is no picture's.
    """
    from matplotlib.figure import Figure

    loaded: list[tuple[str, dict[str, Any]]] = []
    for path in reports:
        report = read_json(path)
        if not isinstance(report, dict) or "depths" not in report:
            raise InputError(f"{path} is no report of probe.py score")
        loaded.append((f"{path.stem} ({report['task']})", report))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    if output.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise InputError(f"{output}: name it .png or .svg")
    accuracy, likelihood = figure.subplots(1, 2)
    for name, report in loaded:
        depths = report["depths"]
        middles = [50 * (depth["start"] + depth["end"]) for depth in depths]
        accuracy.plot(middles, [100 * depth["accuracy"] for depth in depths], "o-", label=name)
        if all(depth["log_likelihood"] is not None for depth in depths):
            values = [depth["log_likelihood"] for depth in depths]
            likelihood.plot(middles, values, "o-", label=name)
    for axes in (accuracy, likelihood):
        axes.set_xlabel("evidence position in the context (%)")
        axes.set_xlim(0, 100)
        axes.grid(alpha=0.3)
    accuracy.set_ylabel("accuracy (%)")
    accuracy.set_ylim(-2, 102)
    likelihood.set_ylabel("answer log likelihood a token")
    accuracy.legend()
    with atomic_file(output, "wb") as stream:
        figure.savefig(stream, format=output.suffix[1:], dpi=140)
