"""What differs between the sync and the async side beyond `async` and `await`. Written by hand on both sides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def sleep(seconds: float) -> None:
    """Wait for some seconds."""
    time.sleep(seconds)


def run_blocking(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that blocks."""
    return function(*args, **kwargs)


class Background:
    """Work that runs beside its caller, in a thread."""

    def __init__(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="plumbline-stream", daemon=True).start()

    def stop(self) -> None:
        """Return at once: a thread cannot be cancelled. The sender of a stream ends when its connection is closed."""
