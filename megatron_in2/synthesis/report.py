"""What a synthesis run made, as JSON and as a picture: are lengths and positions even?"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.files import atomic_file, write_json

BINS = 16


def write_report(
    output: Path,
    made: Counter[str],
    dropped: Counter[str],
    samples: list[tuple[int, list[float]]],
    store: dict[str, Any],
) -> None:
    """Write ``output`` + ``.report.json`` and ``.report.png``.

    Args:
        output: the samples' file.
        made: samples by kind.
        dropped: evidence that gave no sample, by reason.
        samples: (tokens, evidence positions from 0 to 1) of every sample.
        store: the segment store's manifest.
    """
    lengths = np.array([length for length, _ in samples])
    positions = np.array([position for _, found in samples for position in found])
    length_counts, length_edges = np.histogram(lengths, BINS)
    position_counts, _ = np.histogram(positions, BINS, (0.0, 1.0))
    write_json(
        output.with_name(f"{output.name}.report.json"),
        {
            "samples": dict(made),
            "dropped": dict(sorted(dropped.items())),
            "tokens": int(lengths.sum()),
            "corpus": {name: store[name] for name in ("documents", "segments", "tokens")},
            "length_histogram": {
                "edges_tokens": length_edges.tolist(),
                "counts": length_counts.tolist(),
            },
            "evidence_position_histogram": position_counts.tolist(),
        },
    )
    from matplotlib.figure import Figure  # half a second that only the picture needs

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(lengths, BINS)
    left.set(xlabel="tokens of a sample", ylabel="samples")
    right.hist(positions, BINS, (0.0, 1.0))
    right.set(xlabel="evidence position in the context (0 start, 1 end)", ylabel="evidence pieces")
    with atomic_file(output.with_name(f"{output.name}.report.png"), "wb") as stream:
        figure.savefig(stream, format="png", dpi=120)
