"""Starts a coroutine at once, and as a task only where it has to wait.

Most questions of a run that goes on are answered by the journal and wait for nothing: no task
need be made for them. (From Python 3.12 on asyncio has eager tasks of its own.)
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def start(coroutine: Coroutine[Any, Any, Result]) -> asyncio.Future[Result]:
    """Run a coroutine up to its first wait.

    Until then it must not ask which task it runs in, as timeouts do.

    Returns:
        A future that is done, or the task in which the coroutine goes on.
    """
    loop = asyncio.get_running_loop()
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        done: asyncio.Future[Result] = loop.create_future()
        done.set_result(end.value)
        return done
    except Exception as error:
        failed: asyncio.Future[Result] = loop.create_future()
        failed.set_exception(error)
        return failed
    return loop.create_task(_continued(coroutine, awaited))


async def _continued(coroutine: Coroutine[Any, Any, Result], awaited: Any) -> Result:
    return await _rest(coroutine, awaited)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    while True:
        step: Any
        try:
            argument = yield awaited
            step = coroutine.send
        except BaseException as error:
            step, argument = coroutine.throw, error
        try:
            awaited = step(argument)
        except StopIteration as end:
            result: Result = end.value
            return result
