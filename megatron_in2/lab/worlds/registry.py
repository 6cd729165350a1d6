"""The worlds that a study may choose."""

from typing import Literal

from megatron_in2.lab.worlds.base import SmallWorld
from megatron_in2.lab.worlds.fact_samples import FACT_WORLD

WorldName = Literal["facts"]
WORLDS: dict[WorldName, SmallWorld] = {"facts": FACT_WORLD}
