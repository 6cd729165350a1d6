"""What training steps hold of a packed dataset, as a table and as a picture."""

from pathlib import Path

import numpy as np

from megatron_in2.data.inspection.text import escaped
from megatron_in2.data.packed.manifest import part_path, read_manifest
from megatron_in2.data.packed.mixture import Ints, Mixture, trained_by_kind
from megatron_in2.data.packed.order import rows_at
from megatron_in2.errors import InputError

MAX_KINDS = 16  # that a table or a picture shows one by one
BINS = 12
BAR = 40  # characters of the longest bar


def epoch_mixture(prefix: Path, rows_per_step: int, seed: int) -> Mixture:
    """Return what the steps of a dataset's first epoch are trained on.

    Args:
        prefix: of the dataset.
        rows_per_step: the run's ``schedule.global_batch_rows``.
        seed: the run's ``runtime.seed``, which orders the rows.

    Raises:
        InputError: the dataset has fewer rows than a step reads.
    """
    manifest = read_manifest(prefix)
    if rows_per_step < 1:
        raise InputError(f"--rows-per-step {rows_per_step}: must be 1 or more")
    steps = manifest.rows // rows_per_step
    if not steps:
        raise InputError(
            f"{prefix} has {manifest.rows:,} rows, a step of {rows_per_step:,} does not fit: "
            "name the rows of a step with --rows-per-step"
        )
    rows = rows_at(np.arange(steps * rows_per_step), manifest.rows, seed, manifest.unit_rows)
    by_row = kinds_of_rows(prefix, manifest.rows, len(manifest.kinds))
    trained = by_row[rows].reshape(steps, rows_per_step, -1).sum(axis=1)
    return Mixture(manifest.kinds, trained)


def kinds_of_rows(prefix: Path, rows: int, kinds: int) -> Ints:
    """Return the trained tokens of each kind in each row, int64 [rows, kinds]."""
    samples = np.load(part_path(prefix, "_samples.npy"), mmap_mode="r")
    return trained_by_kind(samples["row"].astype(np.int64), samples, rows, kinds)


def as_table(mixture: Mixture, rows_per_step: int, together: list[str]) -> str:
    """Return the mixture as a table, with a histogram of trained tokens per step.

    Args:
        mixture: of the steps.
        rows_per_step: rows of each.
        together: kinds that one more line shows as if they were one.

    Raises:
        InputError: one of them is no kind of the dataset.
    """
    _require_kinds(mixture, together)
    totals = mixture.per_step
    lines = [
        f"{len(totals):,} steps of {rows_per_step:,} rows, one epoch",
        f"trained tokens of a step: mean {totals.mean():,.0f}, {totals.min():,} to "
        f"{totals.max():,}, coefficient of variation {mixture.variation:.3f}",
        "",
        f"{'share of trained tokens':<28} {'all':>6}  {'step: min':>9} {'mean':>6} {'max':>6}"
        f"  {'steps without':>13}",
    ]
    groups = [(kind,) for kind in mixture.by_size()]
    for group in groups[:MAX_KINDS] + ([tuple(together)] if together else []):
        shares = mixture.shares(*group)
        lines.append(
            f"{escaped(' + '.join(group)):<28} {mixture.total_share(*group):>6.3f}  "
            f"{shares.min():>9.3f} {shares.mean():>6.3f} {shares.max():>6.3f}"
            f"  {int((shares == 0).sum()):>13,}"
        )
    if len(groups) > MAX_KINDS:
        lines.append(f"... and {len(groups) - MAX_KINDS} more kinds")
    lines += ["", "trained tokens of a step", *_histogram(totals)]
    return "\n".join(lines + [f"lumpy: {lump}" for lump in mixture.lumps()])


def _require_kinds(mixture: Mixture, kinds: list[str]) -> None:
    for kind in kinds:
        if kind not in mixture.kinds[1:]:
            known = ", ".join(mixture.kinds[1:])
            raise InputError(f"--together {kind}: the dataset has no such kind; it has {known}")


def _histogram(totals: Ints) -> list[str]:
    counts, edges = np.histogram(totals, BINS)
    return [
        f"{edge:>10,.0f} {'█' * round(BAR * count / counts.max())} {count:,}"
        for edge, count in zip(edges[:-1].tolist(), counts.tolist(), strict=True)
    ]


def plot_mixture(mixture: Mixture, path: Path) -> None:
    """Draw trained tokens and kinds' shares by step to a .png or .svg file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = mixture.by_size()[:MAX_KINDS]
    steps = np.arange(len(mixture.per_step))
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(11, 6), sharex=True, layout="constrained"
    )
    above.plot(steps, mixture.per_step, linewidth=0.8)
    above.axhline(mixture.per_step.mean(), color="black", linestyle=":")
    above.set(ylabel="trained tokens", ylim=(0, None))
    above.set_title(f"coefficient of variation {mixture.variation:.3f}", loc="right", fontsize=9)
    labels = [escaped(kind).replace("$", r"\$") for kind in kinds]
    below.stackplot(steps, [mixture.shares(kind) for kind in kinds], labels=labels, step="mid")
    below.set(xlabel="step", ylabel="share of trained tokens", ylim=(0, 1))
    if labels:
        below.legend(loc="upper left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
