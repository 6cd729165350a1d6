"""What a synthesis run made, as JSON and as a picture: are lengths and positions even?"""

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.files import atomic_file, write_json
from megatron_in2.synthesis.composition.config import LONG_KINDS, CompositionConfig
from megatron_in2.synthesis.composition.samples import Finished

BINS = 16


class SynthesisReport:
    """Counts samples as they pass; 8 bytes of each stay in memory.

    Args:
        config: the composition, whose bounds the lengths of long samples fill evenly.
    """

    def __init__(self, config: CompositionConfig) -> None:
        self._config = config
        self.made: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._lengths = array("i")  # of long samples, in tokens
        self._positions = array("f")  # of their evidence, from 0 to 1

    def count(self, sample: Finished) -> None:
        """Count one sample."""
        self.made[sample.kind] += 1
        self._tokens[sample.kind] += sample.tokens
        if sample.kind in LONG_KINDS and sample.position is not None:
            self._lengths.append(sample.tokens)
            self._positions.append(sample.position)

    def write(
        self,
        output: Path,
        dropped: Counter[str],
        store: dict[str, Any],
        calls: dict[str, Any] | None,
    ) -> None:
        """Write ``output`` + ``.report.json`` and ``.report.png``.

        Args:
            output: the samples' file.
            dropped: what gave no sample, by reason.
            store: the segment store's manifest.
            calls: counts and costs of the journal, where there is one.
        """
        low, high = self._config.min_tokens, self._config.max_tokens
        lengths, positions = np.array(self._lengths), np.array(self._positions)
        length_counts, length_edges = np.histogram(lengths, BINS, (low, high))
        position_counts, _ = np.histogram(positions, BINS, (0.0, 1.0))
        report = {
            "samples": dict(self.made),
            "tokens": dict(self._tokens),
            "dropped": dict(sorted(dropped.items())),
            "dropped_documents": store.get("dropped", {}),
            "corpus": {name: store[name] for name in ("documents", "segments", "tokens")},
            "long_sample_lengths": {
                "edges_tokens": length_edges.tolist(),
                "counts": length_counts.tolist(),
                # Whole numbers between two whole bounds, both included.
                **evenness(lengths, low - 0.5, high + 0.5),
            },
            "evidence_positions": {
                "counts": position_counts.tolist(),
                **evenness(positions, 0.0, 1.0),
            },
        }
        if calls is not None:
            report["calls"] = calls
        write_json(output.with_name(f"{output.name}.report.json"), report)
        _draw(output.with_name(f"{output.name}.report.png"), lengths, (low, high), positions)


def evenness(values: npt.NDArray[Any], low: float, high: float) -> dict[str, float | None]:
    """Test whether values fill [low, high] evenly, by Kolmogorov-Smirnov and by chi-square.

    Returns:
        Statistic and p value of both; None where there are no values, or low equals high.
    """
    names = ("ks_statistic", "ks_p", "chi_square", "chi_square_p")
    if not len(values) or high - low <= 1 < high:
        return dict.fromkeys(names)
    from scipy import stats  # type: ignore[import-untyped]  # a second, for the report only

    counts, _ = np.histogram(values, BINS, (low, high))
    kolmogorov = stats.kstest(values, "uniform", (low, high - low))
    chi_square = stats.chisquare(counts)
    results = (kolmogorov.statistic, kolmogorov.pvalue, chi_square.statistic, chi_square.pvalue)
    return {name: float(value) for name, value in zip(names, results, strict=True)}


def _draw(
    path: Path,
    lengths: npt.NDArray[np.int32],
    bounds: tuple[int, int],
    positions: npt.NDArray[np.float32],
) -> None:
    from matplotlib.figure import Figure  # half a second that only the picture needs

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(lengths, BINS, bounds)
    left.set(xlabel="tokens of a long sample", ylabel="samples")
    right.hist(positions, BINS, (0.0, 1.0))
    right.set(xlabel="evidence position in the context (0 start, 1 end)", ylabel="long samples")
    for axes in (left, right):  # what perfectly even counts would be
        axes.axhline(len(lengths) / BINS, color="black", linewidth=0.8, linestyle="--")
    with atomic_file(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=120)
