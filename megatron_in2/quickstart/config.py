"""What a user may choose of the quickstart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_in2.choices import as_option, require_choices

Base = Literal["mistral", "nemo", "llama3", "llama3.2", "qwen2.5", "qwen3"]

_BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True)
class QuickstartConfig:
    """What a user may choose.

    Args:
        base: the base model whose form the small model has.
    """

    base: Base = "mistral"

    def __post_init__(self) -> None:
        require_choices(self, as_option)

    @property
    def shape(self) -> Path:
        """The configuration with the base's form."""
        return _BASES / f"{self.base}.yaml"

    @property
    def home(self) -> Path:
        """The folder of all outputs, in the directory where the quickstart is started."""
        suffix = "" if self.base == "mistral" else f"-{self.base}"
        return Path(f"runs/quickstart{suffix}")
