"""Follows the tensors of a conversion: progress, and values that are not finite."""

import torch

from megatron_in2.conversion.tensor_checks import count_not_finite
from megatron_in2.progress import progress_bar


class Watch:
    """Sees every tensor of a conversion pass: shows progress, counts NaN and infinities."""

    def __init__(self, name: str, nbytes: int) -> None:
        self.tensors = 0
        self.nbytes = nbytes
        self._name = name
        self._unusual: dict[str, int] = {}

    def __enter__(self) -> "Watch":
        self._bar = progress_bar(total=self.nbytes, desc=self._name, unit="B", unit_scale=True)
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.close()

    def see(self, name: str, tensor: torch.Tensor) -> None:
        """Note one tensor that is about to be written."""
        self.tensors += 1
        self._bar.update(tensor.nbytes)
        if found := count_not_finite(tensor):
            self._unusual[name] = found

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the tensors seen call for."""
        if not self._unusual:
            return ()
        first = [f"{name} ({count:,})" for name, count in list(self._unusual.items())[:3]]
        return (
            f"{sum(self._unusual.values()):,} values written are NaN or infinite, in "
            f"{len(self._unusual)} tensors: {', '.join(first)}",
        )
