"""Ids of inspections: UUIDv7, so an id also says when, and sorting by id is sorting by time."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils

from service.store.errors import UnknownInspection


def new_id() -> UUID:
    return UUID(int=uuid_utils.uuid7().int)


def created_at(inspection_id: UUID) -> datetime:
    """The millisecond that the id was made in."""
    return datetime.fromtimestamp((inspection_id.int >> 80) / 1000, UTC)


def first_id(moment: datetime) -> UUID:
    """The lowest id that can be made at a moment or later: ids sort by time, so this is where a range begins."""
    return UUID(int=max(0, math.ceil(moment.timestamp() * 1000)) << 80)


def smallest_text(moment: datetime) -> str:
    """A text that sorts before every id of this moment's millisecond and later, and after every earlier one."""
    digits = f"{max(0, int(moment.timestamp() * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def parse_id(text: str) -> UUID:
    """Read an id that a client sent.

    Raises:
        UnknownInspection: It is no UUIDv7, so no inspection can have it.
    """
    try:
        parsed = UUID(text)
    except ValueError as error:
        raise UnknownInspection(text) from error
    if parsed.version != 7:
        raise UnknownInspection(text)
    return parsed
