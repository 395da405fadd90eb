"""Pages of stored records, newest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class _Identified(Protocol):
    @property
    def id(self) -> str | int: ...


RecordT = TypeVar("RecordT", bound=_Identified)


@dataclass(frozen=True)
class Page(Generic[RecordT]):
    """One page of records.

    Attributes:
        items: The records, newest first.
        next_cursor: Id of the last record if more records follow, otherwise None.
    """

    items: Sequence[RecordT]
    next_cursor: str | None


def read_page(fetch: Callable[[int], Sequence[RecordT]], limit: int) -> Page[RecordT]:
    """Read one page.

    Args:
        fetch: Returns at most the given number of records.
        limit: Maximum number of records on the page.
    """
    # One record more than requested shows whether another page follows.
    found = fetch(limit + 1)
    is_last = len(found) <= limit
    return Page(found[:limit], None if is_last else str(found[limit - 1].id))
