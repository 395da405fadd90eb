"""Alarms: what is abnormal now."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import ResponseModel

AlarmKind = Literal[
    "not-ready",
    "degraded",
    "store",
    "disk",
    "fail-rate",
    "guarantee-suspended",
    "drift",
    "invalid-images",
    "dead-letters",
    "certificate",
    "insecure",
]
Severity = Literal["critical", "warning"]


class AlarmRecord(ResponseModel):
    """Something abnormal."""

    kind: AlarmKind = Field(description="What it is.")
    severity: Severity = Field(
        description="`critical`: inspections fail, or verdicts cannot be trusted. `warning`: they soon may."
    )
    product: str | None = Field(description="The product; null if it concerns all.")
    station: str | None = Field(description="The station; null if it concerns all.")
    since: datetime = Field(description="When it was noticed first, or the estimated beginning.")
    text: str = Field(description="What is wrong, as a sentence.")
    action: str = Field(description="What to do about it.")
    values: dict[str, str | float | int] = Field(description="Measured values and names.")


class AlarmList(ResponseModel):
    """What is abnormal now."""

    items: list[AlarmRecord] = Field(description="The most severe first, and the newest first among those.")
