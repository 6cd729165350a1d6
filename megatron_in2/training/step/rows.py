"""The training rows of a run: one packed dataset, or several blended by weights."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.blend import Blend, blend_sha256, parse_blend
from megatron_in2.data.packed.dataset import PackedDataset, Row
from megatron_in2.data.packed.order import rows_at


@dataclass(frozen=True)
class RowPlace:
    """A row: the index of its dataset, and its index in that dataset."""

    dataset: int
    row: int


class TrainingRows:
    """The datasets of ``data.train``, and the row that each place of the run reads.

    Args:
        text: ``data.train``.
        seed: the run's data seed.
    """

    def __init__(self, text: str, seed: int) -> None:
        weighted = parse_blend(text)
        self.datasets = [PackedDataset(prefix) for _, prefix in weighted]
        self._seed = seed
        counts = tuple(len(dataset) for dataset in self.datasets)
        weights = tuple(weight for weight, _ in weighted)
        units = tuple(dataset.manifest.unit_rows for dataset in self.datasets)
        self._blend = Blend(counts, weights, seed, units) if len(counts) > 1 else None
        self.sha256 = blend_sha256(text, [dataset.manifest for dataset in self.datasets])

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, place: RowPlace) -> Row:
        return self.datasets[place.dataset][place.row]

    def at(self, places: npt.NDArray[np.int64]) -> list[RowPlace]:
        """Return the row at each place, int64 [n], of a run that may have many epochs."""
        if self._blend is None:
            (dataset,) = self.datasets
            rows = rows_at(places, len(dataset), self._seed, dataset.manifest.unit_rows)
            return [RowPlace(0, row) for row in rows.tolist()]
        datasets, rows = self._blend.rows_at(places)
        return [RowPlace(*pair) for pair in zip(datasets.tolist(), rows.tolist(), strict=True)]

    def attention_costs(self, places: list[RowPlace]) -> npt.NDArray[np.int64]:
        """Return each row's sum of squared sample lengths, int64 [rows]."""
        costs = [self.datasets[each.dataset].rows["attention_cost"][each.row] for each in places]
        return np.array(costs, np.int64)

    def sample_count(self, places: list[RowPlace]) -> int:
        """Return the number of samples in rows."""
        return sum(self.datasets[each.dataset].sample_count(each.row) for each in places)

    @cached_property
    def kinds(self) -> list[str]:
        """Names of the kinds in all datasets, those with the most trained tokens first."""
        totals: Counter[str] = Counter()
        for dataset in self.datasets:
            totals.update(dict.fromkeys(dataset.manifest.kinds, 0))
            totals.update(dataset.manifest.learnt_by_kind)
        return [kind for kind, _ in totals.most_common()]

    def trained_by_kind(self, places: list[RowPlace]) -> npt.NDArray[np.int64]:
        """Return the trained tokens of each kind in rows, int64 [rows, kinds], as ``kinds`` has."""
        trained = np.zeros((len(places), len(self.kinds)), np.int64)
        owners = np.array([each.dataset for each in places])
        rows = np.array([each.row for each in places], np.int64)
        for index, dataset in enumerate(self.datasets):
            columns = np.array([self.kinds.index(kind) for kind in dataset.manifest.kinds])
            own = np.flatnonzero(owners == index)
            trained[np.ix_(own, columns)] = dataset.trained_by_kind(rows[own])
        return trained

    def describe(self, places: list[RowPlace]) -> str:
        """Return the rows' indices by dataset, for a message."""
        parts = []
        for index, dataset in enumerate(self.datasets):
            rows = [each.row for each in places if each.dataset == index]
            if rows:
                parts.append(f"rows {rows} of {dataset.prefix}")
        return ", ".join(parts)
