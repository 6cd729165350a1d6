"""What requests cost: dated prices, the money spent so far, and a limit that is never passed."""

import datetime
import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from megatron_in2.errors import InputError

PACKAGED = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True)
class Usage:
    """What the server counted, in tokens; ``cached`` prompt tokens may be cheaper."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Price:
    """One model's price in US dollars per million tokens, and the day it was looked up.

    ``as_of`` is None for a server of the user's own, which costs nothing.
    """

    input: float
    output: float
    cached_input: float
    as_of: datetime.date | None

    def cost(self, usage: Usage) -> float:
        """Return US dollars."""
        new = usage.prompt_tokens - usage.cached_tokens
        dollars = new * self.input + usage.cached_tokens * self.cached_input
        return (dollars + usage.completion_tokens * self.output) / 1e6

    def worst_cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Return the most that a request costs in US dollars: its prompt and the longest reply."""
        return self.cost(Usage(prompt_tokens, answer_tokens))


FREE = Price(0.0, 0.0, 0.0, None)


def load_price(model: str, path: Path | None, batch: bool, base_url: str | None = None) -> Price:
    """Read a model's price, the Batch API's if ``batch``.

    A model that the file does not know is free on a server of the user's own network.

    Raises:
        InputError: the file is no price file, or does not know the model.
    """
    file = path or PACKAGED
    try:
        table: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        as_of, factor = table["as_of"], float(table["batch_factor"]) if batch else 1.0
        prices = {
            str(name): _price(entry, factor, as_of) for name, entry in table["models"].items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"openai.prices: {file} is no price file ({' '.join(str(error).split())}); "
            "it needs as_of, batch_factor and models: NAME: {input, output}"
        ) from error
    if model in prices:
        return prices[model]
    if path is None and is_own_server(base_url):
        return FREE
    raise InputError(
        f"openai.model={model!r} has no price in {file} (it has {', '.join(prices)}): copy the "
        "file, add the model, and name the copy in openai.prices"
    )


def is_own_server(base_url: str | None) -> bool:
    """Whether an address is one of this machine, or of a private network."""
    host = urlsplit(base_url or "").hostname
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name: one without dots is known to this network alone
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


def _price(entry: dict[str, float], factor: float, as_of: datetime.date) -> Price:
    price = entry["input"], entry["output"], entry.get("cached_input", entry["input"])
    if not all(math.isfinite(each) and each >= 0 for each in price):
        raise ValueError(f"prices must be numbers from 0, not {entry}")
    return Price(price[0] * factor, price[1] * factor, price[2] * factor, as_of)


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
