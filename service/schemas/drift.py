"""Drift: evidence that inspections differ from what the guarantee was derived from, and alarms."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.common import AUTHOR, Author, Guarantee, ResponseModel, Sentence

DriftKind = Literal["p_value", "brightness", "contrast", "sharpness", "colour", "reject_rate", "false_reject"]
DriftState = Literal["collecting", "ok", "alarm"]
DriftDirection = Literal["higher", "lower", "wider"]
AlarmState = Literal["open", "acknowledged", "ended"]
ReferenceSource = Literal["card", "proposal", "inspections"]


class Suspension(ResponseModel):
    """Why the guarantee of a product is suspended."""

    since: datetime = Field(description="Time of the first alarm that is open.")
    onset: datetime | None = Field(description="Estimated start of the change.")
    kinds: list[DriftKind] = Field(description="Kinds of the open alarms.")
    stations: list[str] = Field(
        description="Stations with an open alarm; empty if there are only alarms of the product."
    )
    explanation: str = Field(description="What changed, in words.")


class DriftPoint(ResponseModel):
    """The evidence at a time."""

    at: datetime
    evidence: float


class DriftAlarm(ResponseModel):
    """An alarm. It is open until it is acknowledged, or another recipe or bundle is put in force."""

    id: int
    product: str
    station: str | None = Field(description="Null: the product as a whole.")
    kind: DriftKind
    direction: DriftDirection | None
    since: datetime = Field(description="When the alarm was raised.")
    onset: datetime | None = Field(description="Estimated start of the change.")
    evidence: float = Field(description="Decimal logarithm of the evidence when the alarm was raised.")
    suspends: bool = Field(description="Whether the guarantee is suspended as long as the alarm is open.")
    recipe_revision: int
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    reason: str | None = Field(default=None, description="The reason given with the acknowledgement.")
    ended_at: datetime | None = Field(
        default=None, description="When another recipe or bundle ended the alarm; null if none did."
    )

    @property
    def closed_at(self) -> datetime | None:
        """When the alarm was acknowledged or ended; None if it is open."""
        return self.acknowledged_at or self.ended_at

    @property
    def state(self) -> AlarmState:
        """Whether the alarm is open, or how it ended."""
        if self.acknowledged_at is not None:
            return "acknowledged"
        return "open" if self.ended_at is None else "ended"


class DriftStream(ResponseModel):
    """What is monitored of a product or of one of its stations."""

    kind: DriftKind
    station: str | None = Field(description="Null: the product as a whole.")
    state: DriftState = Field(
        description="`collecting`: the first inspections become the reference. `alarm`: the evidence reached the limit."
    )
    evidence: float = Field(description="Decimal logarithm of the evidence that something changed; 0 means none.")
    limit: float = Field(description="Evidence at which an alarm is raised.")
    suspends_at: float = Field(description="Evidence at which the guarantee is suspended.")
    direction: DriftDirection | None = Field(description="How the values changed, if they did; null without evidence.")
    since: datetime = Field(description="Start of the stream, or the last acknowledgement.")
    onset: datetime | None = Field(description="Estimated start of the change, if there is one.")
    count: int = Field(description="Inspections that were counted.")
    reference: ReferenceSource = Field(
        description="What inspections are compared with: the calibration card, the images of the proposal in force, or "
        "the first inspections."
    )
    reference_count: int = Field(description="Number of reference values; 0 for kinds that have none.")
    explanation: str = Field(description="What the stream shows, in words.")
    remedy: str | None = Field(description="What to do; null without an alarm.")
    history: list[DriftPoint] = Field(description="Course of the evidence, oldest first; at most 120 points.")


class DriftReport(ResponseModel):
    """Drift of a product."""

    product: str
    guarantee: Guarantee
    suspension: Suspension | None = Field(description="Null unless the guarantee is suspended.")
    streams: list[DriftStream]
    alarms: list[DriftAlarm] = Field(description="The newest alarms, newest first.")


class DriftAcknowledgement(BaseModel):
    """Why the open alarms of a product need no further attention."""

    model_config = ConfigDict(extra="forbid")

    author: Author | None = Field(default=None, description=AUTHOR)
    reason: Sentence = Field(description="What was found, and what was done about it.")
