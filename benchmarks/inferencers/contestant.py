"""One inferencer in a process of its own, so that neither threads nor packages are shared with the others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

_STOP_S = 30.0


class ContestantFailed(Exception):
    """An inferencer's process ended; its standard error has the reason."""


class Contestant:
    """A running inferencer that answers the requests of `benchmarks.inferencers.lines`.

    Args:
        name: Name in the table.
        command: The process.
        folder: Its working directory.
        variables: Its environment.
        callers: Numbers of callers at the same time that it supports, one at least.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        variables: Mapping[str, str],
        callers: Sequence[int] = (1,),
    ) -> None:
        self.name = name
        self.callers = tuple(callers)
        self._process = subprocess.Popen(
            command, cwd=folder, env=dict(variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ContestantFailed: The process ended instead.
        """
        self._read()

    def inspect(self, file: Path) -> dict[str, Any]:
        """Inspect a file once, and return `seconds`, `score`, `defective` and `map_hw`.

        Raises:
            ContestantFailed: The process ended.
        """
        return self._ask({"file": str(file)})

    def rate(self, file: Path, callers: int, for_s: float) -> float:
        """Return how many images per second several callers get, who each send the next when they have the result.

        Raises:
            ContestantFailed: The process ended.
        """
        done = self._ask({"file": str(file), "callers": callers, "for_s": for_s})
        return float(done["images"] / done["seconds"])

    def close(self) -> None:
        """Stop the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ContestantFailed(self.name) from error
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContestantFailed(f"{self.name} ended with code {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        return reply
