"""Paces requests: keeps stated limits, and finds out an unstated one from the server's refusals.

The first refusal (HTTP 429) starts a search: the rate grows fast until the next one. From then on
it follows CUBIC, the rule by which TCP shares lines (RFC 9438): behind a refusal it falls a little
below what the server was seen to take, comes back to it, stays there long, and then tries more.
So a limit is used nearly to the full, and one that changes meanwhile is found again. Where few
requests are refused and go on being refused at half the rate, no rate causes it: then refusals
hold requests back for as long as they ask for, and the rate grows. ``aiolimiter``, which keeps the
stated limits, has fixed rates only.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field, replace

from aiolimiter import AsyncLimiter

SEARCH_GROWTH = 4.0  # of the rate in a second, behind the first refusal
APPROACH_GROWTH = 1.08  # of the rate in a second, behind the second
FALL = 0.96  # of the measured limit, behind any further one
PLATEAU_SECONDS = 12.0  # until the measured limit itself is tried again
SURE_SHARE = 0.85  # of a rate that grew slowly: so much was no reason to refuse
LOWEST_RATE = 0.5  # requests a second
DEFAULT_WAIT_SECONDS = 0.5  # behind a refusal that asks for no wait
CHANCE_SHARE = 0.2  # of requests refused: so few may be refused by chance
CHANCE_SECONDS = 60.0  # how long refusals pass for chance, then
_WINDOW_SECONDS = (0.5, 8.0)  # shortest and longest in which sent requests are counted
_MOST_COUNTED = 4096
_LATEST = 40


@dataclass(frozen=True)
class Permit:
    """Leave to send one request: given when, and behind how many others of the same epoch."""

    epoch: int
    number: int
    time: float


@dataclass(frozen=True)
class _Epoch:
    """The time between two refusals, looked at from its end: ``refused`` came first of them.

    ``waited`` seconds lay before it; ``times`` are when its latest requests were sent; ``rate``
    is the one at its end, None where nothing limited it.
    """

    start: float
    waited: float
    times: tuple[float, ...]
    rate: float | None
    refused: Permit


@dataclass
class _Chance:
    """Tells refusals that come whatever the rate from those that a limit causes."""

    latest: deque[bool] = field(default_factory=lambda: deque(maxlen=_LATEST))
    peak_rate: float = 0.0  # the highest of late that no run of refusals has disproved
    peak_time: float = 0.0
    until: float = 0.0  # refusals pass for chance

    def note(self, refused: bool) -> None:
        self.latest.append(refused)

    def explains(self, now: float) -> bool:
        return now < self.until and self._are_few()

    def found(self, rate: float, now: float) -> bool:
        """Take a rate that was measured; return whether refusals turn out to come by chance."""
        few, old = self._are_few(), now - self.peak_time > CHANCE_SECONDS
        if rate >= self.peak_rate or old or not few:
            self.peak_rate, self.peak_time = rate, now
        by_chance = few and rate < self.peak_rate / 2
        self.until = now + CHANCE_SECONDS if by_chance else 0.0
        return by_chance

    def _are_few(self) -> bool:
        return sum(self.latest) < CHANCE_SHARE * _LATEST


class RateLimiter:
    """Says when a request may be sent; all requests of a run pass through one.

    Args:
        requests_per_minute: stated limit; 0 is none.
        tokens_per_minute: stated limit; 0 is none.
    """

    def __init__(self, requests_per_minute: int = 0, tokens_per_minute: int = 0) -> None:
        self._requests = _per_minute(requests_per_minute)
        self._tokens = _per_minute(tokens_per_minute)
        self._queue = asyncio.Lock()  # first come, first served
        self._not_before = 0.0  # what Retry-After asks for
        self._next = 0.0  # what the rate asks for
        self._epoch = 0  # none of its requests was refused so far
        self._epoch_start = 0.0
        self._waited = 0.0
        self._sent = 0  # in this epoch
        self._times: deque[float] = deque(maxlen=_MOST_COUNTED)
        self._base_rate = 0.0  # from which this epoch's rate is derived, in requests a second
        self._searching = True
        self._last: _Epoch | None = None
        self._first_taken = 0  # answered requests of the first epoch
        self._chance = _Chance()

    def rate(self, time: float) -> float | None:
        """Return the requests a second at a time of this epoch; None while no limit was met."""
        if self._last is None:
            return None
        seconds = max(time - self._epoch_start, 0.0)
        if self._searching:
            return self._base_rate * math.pow(SEARCH_GROWTH, min(seconds, 20.0))
        if self._epoch == 2:
            return FALL * self._base_rate * math.pow(APPROACH_GROWTH, seconds)
        # Flat around PLATEAU_SECONDS, steeper before and after it.
        shape = (seconds / PLATEAU_SECONDS - 1) ** 3
        return self._base_rate * (1 + shape * (1 - FALL if shape < 0 else 1))

    async def turn(self, tokens: int) -> Permit:
        """Wait until a request of so many tokens, its longest reply included, may be sent."""
        if self._queue.locked() or not self._is_free():
            async with self._queue:
                await self._wait(tokens)
        now = _now()
        self._times.append(now)
        self._sent += 1
        return Permit(self._epoch, self._sent - 1, now)

    def answered(self, turn: Permit) -> None:
        """Take note that a request was answered."""
        self._chance.note(False)
        if turn.epoch == 0:
            self._first_taken += 1
            if self._epoch == 1 and not self._sent:
                self._measure()

    def refused(self, turn: Permit, wait_seconds: float) -> None:
        """Take note that a request was one too many (HTTP 429).

        Args:
            turn: the request's.
            wait_seconds: how long the server asks to wait; 0 where it says nothing.
        """
        now = _now()
        self._chance.note(True)
        if self._chance.explains(now):
            self.hold(wait_seconds)
            return
        self.hold(wait_seconds or DEFAULT_WAIT_SECONDS)
        if turn.epoch == self._epoch:
            rate = self.rate(turn.time)
            self._last = _Epoch(self._epoch_start, self._waited, tuple(self._times), rate, turn)
            self._epoch += 1
            self._sent = 0
            self._times.clear()
        if not self._sent:  # the new epoch has not begun: it begins when all have been heard
            if self._last is not None and turn.epoch == self._epoch - 1:
                first = min(turn, self._last.refused, key=lambda each: each.number)
                self._last = replace(self._last, refused=first)
                self._measure()
            self._waited = self._not_before - now
            self._epoch_start = self._next = self._not_before

    def hold(self, wait_seconds: float) -> None:
        """Send nothing for so long."""
        self._not_before = max(self._not_before, _now() + wait_seconds)

    def _measure(self) -> None:
        """Find what the server takes, from the last epoch.

        A server that takes L requests a second, and at most B at once, has taken no more than
        L x T + B in any T seconds: L is (taken - B) / T or more. And behind a wait of W seconds,
        in which at most L x W could be saved up, L is taken / (T + W) or more.
        """
        assert self._last is not None
        last = self._last
        seconds = last.refused.time - last.start
        if last.refused.epoch == 0:
            bounds = [self._first_taken / max(2 * seconds, 1.0)]
        else:
            bounds = [last.refused.number / (seconds + last.waited)]
            taken = [time for time in last.times if time < last.refused.time]
            for number, first in enumerate(taken):
                window = last.refused.time - first
                if _WINDOW_SECONDS[0] <= window <= _WINDOW_SECONDS[1]:
                    bounds.append((len(taken) - number - self._first_taken) / window)
        if last.refused.epoch >= 2 and last.rate is not None and seconds > PLATEAU_SECONDS / 2:
            bounds.append(SURE_SHARE * last.rate)
        self._base_rate = max(*bounds, LOWEST_RATE)
        by_chance = self._chance.found(self._base_rate, _now())
        self._searching = by_chance or self._epoch == 1
        if by_chance:
            self._base_rate = self._chance.peak_rate

    async def _wait(self, tokens: int) -> None:
        if self._requests is not None:
            await self._requests.acquire()
        while self._tokens is not None and tokens > 0:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))
            tokens -= int(self._tokens.max_rate)
        while (wait := max(self._not_before, self._next) - _now()) > 0:
            await asyncio.sleep(wait)
        if (rate := self.rate(_now())) is not None:
            self._next = max(self._next, _now() - 0.05) + 1 / rate

    def _is_free(self) -> bool:
        limited = self._epoch or self._requests is not None or self._tokens is not None
        return not limited and self._not_before <= _now()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _per_minute(limit: int) -> AsyncLimiter | None:
    """Return a limiter that lets ``limit`` through in any minute, spread evenly; None for 0."""
    if not limit:
        return None
    burst = max(limit / 61, 1.0)
    per_second = max(limit - burst, limit / 2) / 60
    return AsyncLimiter(burst, burst / per_second)
