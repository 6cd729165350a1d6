"""What a packed dataset holds, as a table and as pictures."""

from pathlib import Path

from megatron_in2.data.packed.manifest import Manifest

BAR = 40  # characters of the longest bar


def summary(manifest: Manifest) -> str:
    """Return the manifest as a readable table with its two histograms."""
    rows = [
        ("rows", f"{manifest.rows:,} of {manifest.seq_length:,} tokens"),
        ("filled", f"{100 * manifest.packing_efficiency:.2f} %"),
        ("samples", f"{manifest.samples:,}"),
        ("tokens", f"{manifest.tokens:,}"),
        ("learnt", f"{manifest.learnt_tokens:,} ({100 * manifest.learnt_fraction:.2f} %)"),
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
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
    return f"{table}\n{_bars(manifest, 'length')}\n{_bars(manifest, 'evidence_position')}"


def _bars(manifest: Manifest, name: str) -> str:
    counts = manifest.histograms[name]
    top = manifest.seq_length if name == "length" else 1
    title = {"length": "sample length in tokens", "evidence_position": "evidence position"}[name]
    lines = [f"\n{title}"]
    for index, count in enumerate(counts):
        start = top * index / len(counts)
        label = f"{start:,.0f}" if top > 1 else f"{start:.3f}"
        bar = "█" * round(BAR * count / max(*counts, 1))
        lines.append(f"{label:>8} {bar} {count:,}")
    return "\n".join(lines)


def plot(manifest: Manifest, path: Path) -> None:
    """Draw lengths and evidence positions to a .png or .svg file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, name, top, label in zip(
        axes,
        ("length", "evidence_position"),
        (manifest.seq_length, 1),
        ("sample length (tokens)", "evidence position (0 start, 1 end)"),
        strict=True,
    ):
        counts = manifest.histograms[name]
        width = top / len(counts)
        axis.bar([width * index for index in range(len(counts))], counts, width, align="edge")
        axis.set(xlabel=label, ylabel="samples")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
