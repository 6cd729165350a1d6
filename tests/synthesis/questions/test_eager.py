"""A coroutine that waits for nothing is done at once; any other goes on as a task."""

import asyncio

import pytest

from megatron_in2.synthesis.questions.eager import start


async def _sum(waits: list[float], fails: bool = False) -> int:
    total = 0
    for wait in waits:
        if wait:
            total += await asyncio.sleep(wait, 1)
        total += 1
    if fails:
        raise ValueError("no")
    return total


def test_without_a_wait_it_is_done_at_once() -> None:
    async def main() -> None:
        done = start(_sum([0, 0]))
        assert done.done()
        assert done.result() == 2
        failed = start(_sum([], fails=True))
        with pytest.raises(ValueError, match="no"):
            failed.result()

    asyncio.run(main())


def test_with_waits_it_ends_as_a_task_does() -> None:
    async def main() -> None:
        waiting = start(_sum([0, 0.001, 0, 0.001]))
        assert not waiting.done()
        assert await waiting == 6
        with pytest.raises(ValueError, match="no"):
            await start(_sum([0.001], fails=True))

    asyncio.run(main())


def test_it_is_cancelled_where_it_waits() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> None:
        task = start(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["cancelled"]


def test_errors_reach_the_place_that_waits() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def work() -> str:
            try:
                await future
            except KeyError:
                return "caught"
            return "missed"

        task = start(work())
        future.set_exception(KeyError("x"))
        return await task

    assert asyncio.run(main()) == "caught"
