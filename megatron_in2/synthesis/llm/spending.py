"""What requests cost: dated prices, the money spent so far, and a limit that is never passed."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megatron_in2.errors import InputError

PACKAGED = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True)
class Price:
    """One model's price in US dollars per million tokens, and the day it was looked up."""

    input: float
    output: float
    as_of: datetime.date

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return US dollars."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def load_price(model: str, path: Path | None, batch: bool) -> Price:
    """Read a model's price, the Batch API's if ``batch``.

    Raises:
        InputError: the file is no price file, or does not know the model.
    """
    path = path or PACKAGED
    try:
        table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        as_of, factor = table["as_of"], float(table["batch_factor"]) if batch else 1.0
        prices = {
            name: Price(entry["input"] * factor, entry["output"] * factor, as_of)
            for name, entry in table["models"].items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"openai.prices: {path} is no price file ({' '.join(str(error).split())}); "
            "it needs as_of, batch_factor and models: NAME: {input, output}"
        ) from error
    if model not in prices:
        raise InputError(
            f"openai.model={model!r} has no price in {path} (it has {', '.join(prices)}): copy the "
            "file, add the model, and name the copy in openai.prices"
        )
    return prices[model]


class Budget:
    """Money spent and reserved, kept under a limit.

    Args:
        spent: what earlier runs may have spent, in US dollars.
        limit: the most to spend over all runs; None is no limit.
    """

    def __init__(self, spent: float, limit: float | None) -> None:
        self._spent = spent
        self._reserved = 0.0
        self._limit = limit

    def allows(self, worst_cost: float) -> bool:
        """Whether a request that costs so much at most stays under the limit."""
        total = self._spent + self._reserved + worst_cost
        return self._limit is None or total <= self._limit

    @property
    def is_reserved(self) -> bool:
        """Whether money is set aside for requests under way."""
        return self._reserved > 1e-9

    def reserve(self, worst_cost: float) -> None:
        """Set aside what a request costs at most.

        Raises:
            InputError: it could pass the limit: nothing may be sent.
        """
        if self._limit is not None and not self.allows(worst_cost):
            raise InputError(
                f"stopped before --max-cost {self._limit:g}: ${self._spent:.4f} may be spent, "
                f"${self._reserved:.4f} is under way and the next request could cost "
                f"${worst_cost:.4f}; answers are kept: run again with a higher limit to go on"
            )
        self._reserved += worst_cost

    def settle(self, worst_cost: float, cost: float) -> None:
        """Replace what was set aside by what was, or may have been, spent."""
        self._reserved -= worst_cost
        self._spent += cost
