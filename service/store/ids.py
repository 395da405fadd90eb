"""Inspection ids: UUIDv7. An id contains its creation time, and sorting by id sorts by time."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils

from service.store.errors import UnknownInspection


def new_id() -> UUID:
    """Return a new UUIDv7."""
    return UUID(int=uuid_utils.uuid7().int)


def created_at(inspection_id: UUID) -> datetime:
    """Return the creation time in an id, in UTC with millisecond resolution."""
    return datetime.fromtimestamp((inspection_id.int >> 80) / 1000, UTC)


def first_id(moment: datetime) -> UUID:
    """Return the smallest id that can be created at `moment` or later: the inclusive start of a range of ids."""
    return UUID(int=max(0, math.ceil(moment.timestamp() * 1000)) << 80)


def smallest_text(moment: datetime) -> str:
    """Return a string that sorts before every id of this millisecond or later, and after every earlier id."""
    digits = f"{max(0, int(moment.timestamp() * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def parse_id(text: str) -> UUID:
    """Parse an inspection id from a request.

    Raises:
        UnknownInspection: It is not a UUIDv7, so no inspection has it.
    """
    try:
        parsed = UUID(text)
    except ValueError as error:
        raise UnknownInspection(text) from error
    if parsed.version != 7:
        raise UnknownInspection(text)
    return parsed
