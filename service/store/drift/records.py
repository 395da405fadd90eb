"""Immutable records of drift monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.monitoring.drift.records import Observation, StoredStream
from service.monitoring.drift.streams import Stream
from service.schemas.drift import DriftDirection, DriftKind, DriftState, ReferenceSource


@dataclass(frozen=True)
class AlarmRecord:
    """A stored alarm; see `service.schemas.drift.DriftAlarm`.

    Attributes:
        station: The station; empty for the product as a whole.
        reference: Key of the reference of the stream.
    """

    id: int
    product: str
    station: str
    kind: DriftKind
    direction: DriftDirection | None
    reference: str
    recipe_revision: int
    raised_at: datetime
    onset_at: datetime | None
    evidence: float
    suspends: bool
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    reason: str | None
    ended_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it was neither acknowledged nor ended by another reference."""
        return self.acknowledged_at is None and self.ended_at is None


@dataclass(frozen=True)
class StreamRecord:
    """A stored stream. The attributes are those of `DriftStreamRow`."""

    product: str
    station: str
    kind: DriftKind
    reference: str
    recipe_revision: int
    source: ReferenceSource
    reference_count: int
    state: DriftState
    started_at: datetime
    count: int
    evidence: float
    direction: DriftDirection | None
    onset_at: datetime | None
    alarm_id: int | None
    reference_values: dict[str, Any]
    progress: dict[str, Any]
    history: dict[str, Any]

    @property
    def stored(self) -> StoredStream:
        """What a stream continues with."""
        return StoredStream(
            self.source, self.started_at, self.count, self.alarm_id, self.reference_values, self.progress, self.history
        )


@dataclass(frozen=True)
class NewInspection:
    """An inspection that the streams have not counted yet."""

    product: str
    recipe_revision: int
    image_sha256: str
    observation: Observation


@dataclass(frozen=True)
class ChangedStream:
    """A stream that is to be stored.

    Attributes:
        product: The product.
        recipe_revision: The recipe revision in force.
        stream: The stream.
        raises: Whether an alarm is raised.
        suspends: Whether its alarm suspends the guarantee.
        has_new_reference: Whether the reference values have to be stored, too.
    """

    product: str
    recipe_revision: int
    stream: Stream
    raises: bool
    suspends: bool
    has_new_reference: bool
