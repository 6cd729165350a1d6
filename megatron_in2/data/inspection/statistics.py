"""What a packed dataset holds, as a table and as pictures."""

from dataclasses import dataclass
from pathlib import Path

from megatron_in2.data.inspection.text import escaped
from megatron_in2.data.packed.manifest import Manifest
from megatron_in2.errors import InputError

BAR = 40  # characters of the longest bar


def summary(manifest: Manifest) -> str:
    """Return the manifest as a readable table with its histograms."""
    rows = [
        ("rows", f"{manifest.rows:,} of {manifest.seq_length:,} tokens"),
        ("filled", f"{100 * manifest.packing_efficiency:.2f} %"),
        ("samples", f"{manifest.samples:,}"),
        ("tokens", f"{manifest.tokens:,}"),
        ("trained on", f"{manifest.learnt_tokens:,} ({100 * manifest.learnt_fraction:.2f} %)"),
        ("tokenizer", f"{manifest.tokenizer} ({manifest.vocab_size:,} pieces)"),
        ("template", manifest.template),
        ("design", manifest.design),
        ("padded to", f"multiples of {manifest.pad_multiple}"),
        *((f"kind {name}", f"{count:,}") for name, count in manifest.samples_by_kind.items()),
        *((f"dropped: {name}", f"{count:,}") for name, count in manifest.dropped.items()),
        *((f"rejected: {name}", f"{count:,}") for name, count in manifest.rejected.items()),
        *((name, f"{count:,}") for name, count in manifest.notes.items()),
    ]
    width = max(len(name) for name, _ in rows)
    table = "\n".join(escaped(f"{name:<{width}}  {value}") for name, value in rows)
    return "\n".join([table, *(_bars(manifest, each) for each in _histograms_of(manifest))])


def _histograms_of(manifest: Manifest) -> list["_Histogram"]:
    """Return the histograms that hold anything."""
    known = [
        _Histogram("length", "sample length (tokens)", manifest.seq_length, "{:,.0f}"),
        _Histogram("evidence_position", "evidence position (0 start, 1 end)", 1, "{:.3f}"),
    ]
    return [each for each in known if any(manifest.histograms[each.name])]


@dataclass(frozen=True)
class _Histogram:
    """One of a manifest's histograms: equal bins from 0 to ``top``."""

    name: str
    title: str
    top: int
    label: str


def _bars(manifest: Manifest, histogram: _Histogram) -> str:
    counts = manifest.histograms[histogram.name]
    lines = [f"\n{histogram.title}"]
    for index, count in enumerate(counts):
        label = histogram.label.format(histogram.top * index / len(counts))
        lines.append(f"{label:>8} {'█' * round(BAR * count / max(counts))} {count:,}")
    return "\n".join(lines)


def plot(manifest: Manifest, path: Path) -> None:
    """Draw lengths, and evidence positions if any are known, to a .png or .svg file.

    Raises:
        InputError: the dataset has no samples.
    """
    histograms = _histograms_of(manifest)
    if not histograms:
        raise InputError(f"{path} is not drawn: the dataset has no samples")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = len(histograms)
    figure, axes = pyplot.subplots(
        1, panels, figsize=(5.5 * panels, 4), layout="constrained", squeeze=False
    )
    for axis, histogram in zip(axes[0], histograms, strict=True):
        counts = manifest.histograms[histogram.name]
        width = histogram.top / len(counts)
        axis.bar([width * index for index in range(len(counts))], counts, width, align="edge")
        axis.set(xlabel=histogram.title, ylabel="samples")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
