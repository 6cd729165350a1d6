"""A limit that the server does not state is found, and used nearly to the full."""

import asyncio
import random
from collections.abc import Callable

import pytest

from megatron_in2.synthesis.llm.online.limiter import RateLimiter
from tests.synthesis.virtual_time import run


class _Server:
    """Takes ``rate`` requests a second and ``burst`` at once, or asks to wait."""

    def __init__(
        self, rate: Callable[[float], float], burst: int, retry_after: float, latency: float
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._retry_after = retry_after
        self._latency = latency
        self._saved = float(burst)
        self._seen = 0.0
        self._hold_until = 0.0
        self.refused = 0
        self.early = 0  # requests that came while the server had asked to wait

    async def ask(self) -> float | None:
        """Return None for an answer, else the seconds to wait."""
        await asyncio.sleep(self._latency / 2)
        now = asyncio.get_running_loop().time()
        self.early += now < self._hold_until
        earned = (now - self._seen) * self._rate(now)
        self._saved, self._seen = min(self._saved + earned, self._burst), now
        is_taken = self._saved >= 1
        self._saved -= is_taken
        self.refused += not is_taken
        await asyncio.sleep(self._latency / 2)
        if is_taken:
            return None
        self._hold_until = asyncio.get_running_loop().time() + self._retry_after
        return self._retry_after


async def _ask_all(server: _Server, count: int, concurrency: int) -> RateLimiter:
    limiter, slots = RateLimiter(), asyncio.Semaphore(concurrency)

    async def one() -> None:
        wait: float | None = 0.0
        while wait is not None:
            async with slots:
                turn = await limiter.turn(100)
                wait = await server.ask()
                if wait is None:
                    limiter.answered(turn)
                else:
                    limiter.refused(turn, wait)

    await asyncio.gather(*(one() for _ in range(count)))
    return limiter


@pytest.mark.parametrize(
    ("rate", "burst", "retry_after", "latency", "count", "concurrency", "share"),
    [
        (10, 3, 1, 0.05, 300, 32, 0.80),
        (10, 3, 1, 0.30, 300, 64, 0.80),
        (10, 3, 1, 0.05, 3000, 32, 0.90),
        (100, 10, 1, 0.50, 6000, 256, 0.80),
        (100, 10, 0, 0.50, 6000, 256, 0.80),  # a server that does not say how long to wait
        (500 / 60, 500, 2, 1.00, 3000, 64, 0.95),
    ],
)
def test_most_of_an_unstated_limit_is_used(
    rate: float,
    burst: int,
    retry_after: float,
    latency: float,
    count: int,
    concurrency: int,
    share: float,
) -> None:
    server = _Server(lambda _: rate, burst, retry_after, latency)
    _, seconds = run(_ask_all(server, count, concurrency))
    best = (count - burst) / rate
    assert best <= seconds <= best / share
    # The first refusals come all at once; later ones are few.
    assert server.refused <= concurrency + 0.1 * count


def test_a_limit_that_changes_is_found_again() -> None:
    def rate(now: float) -> float:
        return 100 if now < 20 or now > 100 else 20

    server = _Server(rate, 10, 1, 0.3)
    _, seconds = run(_ask_all(server, 100 * 20 + 20 * 80 + 100 * 60, 128))
    assert seconds <= 160 / 0.7


def test_no_request_comes_while_the_server_asks_to_wait() -> None:
    server = _Server(lambda _: 5, 1, 2, 0.0)
    run(_ask_all(server, 100, 1))
    assert server.refused > 1
    assert server.early == 0


def test_nothing_is_held_back_without_a_limit() -> None:
    server = _Server(lambda _: 1e9, 10**9, 1, 0.5)
    limiter, seconds = run(_ask_all(server, 5000, 500))
    assert seconds == pytest.approx(5.0, abs=0.01)
    assert limiter.rate(seconds) is None


@pytest.mark.parametrize(
    ("limits", "seconds"), [((600, 0), 30.0), ((0, 60_000), 30.0), ((600, 30_000), 60.0)]
)
def test_stated_limits_are_kept(limits: tuple[int, int], seconds: float) -> None:
    async def ask() -> None:
        limiter = RateLimiter(*limits)
        await asyncio.gather(*(limiter.turn(100) for _ in range(300)))

    _, taken = run(ask())
    assert 0.9 * seconds <= taken <= 1.1 * seconds


def test_a_wait_without_a_limit_holds_all_back() -> None:
    async def ask() -> float:
        limiter = RateLimiter()
        await limiter.turn(1)
        limiter.hold(7.0)
        await asyncio.gather(*(limiter.turn(1) for _ in range(100)))
        return asyncio.get_running_loop().time()

    assert run(ask())[0] == pytest.approx(7.0, abs=0.01)


@pytest.mark.parametrize(
    ("share", "retry_after", "most"), [(0.03, 0.0, 30), (0.08, 0.0, 60), (0.08, 0.02, 60)]
)
def test_refusals_by_chance_do_not_slow_a_run_down(
    share: float, retry_after: float, most: float
) -> None:
    class Moody(_Server):
        async def ask(self) -> float | None:
            await asyncio.sleep(0.05)
            is_refused = chance.random() < share
            self.refused += is_refused
            return retry_after if is_refused else None

    chance = random.Random(1)
    server = Moody(lambda _: 1, 1, 0, 0)
    _, seconds = run(_ask_all(server, 3000, 24))
    assert server.refused > 0.5 * share * 3000
    assert 3000 * 0.05 / 24 < seconds < most
