"""Local times at which shifts begin, as settings and requests state them."""

from __future__ import annotations

from datetime import datetime, time

MAX_SHIFTS = 24


def parse_shifts(text: str) -> tuple[time, ...]:
    """Return the times at which shifts begin.

    Args:
        text: Local times, ascending and comma-separated, such as "06:00,14:00,22:00".

    Raises:
        ValueError: It is not such a list.
    """
    try:
        starts = tuple(datetime.strptime(part.strip(), "%H:%M").time() for part in text.split(","))  # noqa: DTZ007
    except ValueError:
        starts = ()
    if not 0 < len(starts) <= MAX_SHIFTS or list(starts) != sorted(set(starts)):
        raise ValueError(
            "expected the local times at which shifts begin, ascending and comma-separated, at most "
            f"{MAX_SHIFTS}, such as 06:00,14:00,22:00"
        )
    return starts
