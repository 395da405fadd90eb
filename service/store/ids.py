"""Inspection ids: UUIDv7. Ids of one process increase, so sorting by id sorts in the order of creation.

The time in an id is the clock's, but never earlier than that of the id before it: if the clock was set back, ids
continue with the old time. Therefore a time that people see, or that retention compares, is stored on its own
(`created_at`); ids only serve for order and for the names of files.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils

from service.store.errors import UnknownInspection


def new_id() -> UUID:
    """Return a new UUIDv7."""
    return UUID(int=uuid_utils.uuid7().int)


def created_at(inspection_id: UUID) -> datetime:
    """Return the time in an id, in UTC with millisecond resolution. It may be later than the clock's: see above."""
    return datetime.fromtimestamp((inspection_id.int >> 80) / 1000, UTC)


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
