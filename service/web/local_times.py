"""Local times in forms: what a field contains, and the moment that it means."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo


def read_period(given: Mapping[str, str], zone: ZoneInfo) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fields of a form with the local times `since` and `until` read.

    Of a local time that occurs twice, because daylight saving time ends, the start of a period is the first one and its
    end the second one. A time with a zone is accepted, too. What is no time stays as it is.

    Args:
        given: The fields that are not empty.
        zone: Time zone of local times.

    Returns:
        The fields as the form shows them, with local times; and as a query, with times that have a zone.
    """
    shown, stated = dict(given), dict(given)
    for name in ("since", "until"):
        try:
            moment = datetime.fromisoformat(given.get(name, ""))
        except ValueError:
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone, fold=0 if name == "since" else 1)
        stated[name] = moment.isoformat()
        shown[name] = moment.astimezone(zone).replace(tzinfo=None).isoformat(timespec="minutes")
    return shown, stated
