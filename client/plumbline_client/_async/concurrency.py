"""What differs between the sync and the async side beyond `async` and `await`. Written by hand on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def sleep(seconds: float) -> None:
    """Wait for some seconds."""
    await asyncio.sleep(seconds)


async def run_blocking(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that blocks, in a thread so that the event loop does not."""
    return await asyncio.to_thread(function, *args, **kwargs)


class Background:
    """Work that runs beside its caller, as a task."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.create_task(work())

    async def stop(self) -> None:
        """Cancel the work if it is not done, and wait until it has ended."""
        self._task.cancel()
        await asyncio.wait([self._task])
