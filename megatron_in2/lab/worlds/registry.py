"""The worlds that a study may choose."""

from typing import Literal

from megatron_in2.lab.worlds.attempt_samples import ATTEMPT_WORLD
from megatron_in2.lab.worlds.base import SmallWorld
from megatron_in2.lab.worlds.fact_samples import FACT_WORLD
from megatron_in2.lab.worlds.strategy_samples import STRATEGY_WORLD

WorldName = Literal["facts", "attempts", "strategies"]
WORLDS: dict[WorldName, SmallWorld] = {
    "facts": FACT_WORLD,
    "attempts": ATTEMPT_WORLD,
    "strategies": STRATEGY_WORLD,
}
