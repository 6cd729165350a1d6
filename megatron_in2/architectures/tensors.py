"""One row of a tensor table: a Megatron-Core tensor and its Hugging Face tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorMapping:
    """One Megatron-Core tensor and the Hugging Face tensors of which it consists.

    Keys are those of Transformer Engine's spec, whose norms are fused into the matrix after them.
    Models of Megatron-Core's torch spec, where norms are separate modules, are saved under the same
    keys.

    Args:
        key: name in a distributed checkpoint, which stacks the tensors of all layers.
        layer: index on the stacked axis; None for a tensor outside the layers.
        shape: of this tensor, with the unpadded vocabulary.
        names: of the Hugging Face tensors.
        shapes: of the Hugging Face tensors, in the order of ``names``.
        merge: makes the Megatron-Core tensor from the Hugging Face tensors.
        split: the inverse of ``merge``.
        alias: the torch spec's own name, which other tools may have used; empty if it is equal.
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
        """Number of elements."""
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
