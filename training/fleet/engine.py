"""What the engines of a fleet have in common: local processes and a Ray cluster do the same jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from training.interruption import Interruption

if TYPE_CHECKING:  # importing the jobs imports torch, which the process that starts them does not need
    from training.fleet.job import Job, Outcome

Function = Callable[..., Any]
"""A function like `training.fleet.job.run_job`, which does a job. The processes that do the jobs import it."""

Watch = Callable[[str, str], None]
"""Called with the name of a product and a short text about what is done for it; an empty one when it has ended."""


class Engine(Protocol):
    """Does jobs side by side."""

    def run(self, jobs: Sequence[Job], watch: Watch, stop: Interruption) -> Iterator[tuple[Job, Outcome]]:
        """Do the jobs and yield each with its outcome, in the order in which they end.

        After a signal no job is started, and those in progress end with the outcome "interrupted".

        Args:
            jobs: The jobs, in the order in which they are started.
            watch: Shows what is done.
            stop: Ends the work.
        """
