"""Imports Megatron-Core without two dependencies that a rank does not use.

Megatron-Core imports ``wandb`` (for its inference server) and, by decorating functions with
``torch.compile``, torch's compiler. Together they are half of a rank's start: 2.4 of 5.3 seconds
of CPU time and 80 MB in every process.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def without_unused_imports() -> Iterator[None]:
    """Keep ``wandb``, and on a machine without CUDA the compiler, out of what is imported inside.

    Functions that are decorated with ``torch.compile`` inside the block run uncompiled. With CUDA
    they stay compiled. ``wandb`` can be imported as usual after the block.
    """
    import torch

    compiler, hidden = torch.compile, "wandb" not in sys.modules
    if hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment] # makes an import fail
    if not torch.cuda.is_available():
        torch.compile = _uncompiled  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler
        if hidden:
            del sys.modules["wandb"]


def _uncompiled(function: Callable[..., Any] | None = None, **unused: Any) -> Any:
    """Replace ``torch.compile``, as a decorator with or without arguments."""
    return function if function is not None else lambda decorated: decorated
