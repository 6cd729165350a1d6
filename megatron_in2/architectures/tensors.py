"""One row of a tensor table: which Hugging Face tensors a Megatron-Core tensor is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorMapping:
    """One Megatron-Core tensor and the Hugging Face tensors it is made of.

    ``key`` is its name in a distributed checkpoint, where the tensors of all layers are stacked
    on a leading axis; ``layer`` is its place there, None for a tensor outside the layers.
    ``shape`` is its own, vocabulary unpadded; ``shapes`` are those of ``names``, in order.

    Keys are those of Transformer Engine's spec, whose norms are fused with the matrix behind
    them; Megatron-Core's torch spec, whose norms are modules of their own, is saved under them
    too. ``alias`` is the torch spec's own name, under which other tools may have saved; empty
    where it is equal.
    """

    key: str
    layer: int | None
    shape: Shape
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    merge: "Callable[[list[Tensor]], Tensor]"
    split: "Callable[[Tensor], list[Tensor]]"
    alias: str = ""

    @property
    def size(self) -> int:
        """Number of its elements."""
        return prod(self.shape)


def same_tensor(
    key: str, name: str, shape: Shape, layer: int | None = None, alias: str = ""
) -> TensorMapping:
    """Return the row of a tensor that is the same on both sides."""
    return TensorMapping(
        key=key,
        layer=layer,
        shape=shape,
        names=(name,),
        shapes=(shape,),
        merge=lambda tensors: tensors[0],
        split=lambda tensor: [tensor],
        alias=alias,
    )
