"""A product of a fleet and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.fleet.job import Job
from training.fleet.results import Result

State = Literal["waiting", "unchanged", "trained", "failed"]


@dataclass(frozen=True)
class Entry:
    """A product and how far it is.

    Attributes:
        job: Its job.
        state: "unchanged" if nothing had to be done, because an earlier start had trained it.
        result: The stored result; None while it waits.
    """

    job: Job
    state: State
    result: Result | None = None
