"""What the checks of `plumbline doctor` find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        subject: What was checked.
        health: How serious the finding is.
        detail: What was found.
        remedy: What to do about it; empty if nothing needs to be done.
    """

    subject: str
    health: Health
    detail: str
    remedy: str = ""
