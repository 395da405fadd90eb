"""Alarms as the pages show them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from service.access.principal import Principal
from service.api.http.server_paths import hide_paths
from service.languages import Texts
from service.schemas.alarm import Severity
from service.serving.alarm_texts import TEXTS
from service.serving.alarms import Alarm
from service.web.navigation import entries_for


@dataclass(frozen=True)
class AlarmLine:
    """One alarm, in the language of the page.

    Attributes:
        severity: Its severity.
        where: Product and station; empty if it concerns all.
        text: What is wrong.
        action: What to do.
        since: When it was noticed first.
        path: Page on which to act; None if the person may not open it.
    """

    severity: Severity
    where: str
    text: str
    action: str
    since: datetime
    path: str | None


def lines_of(alarms: Sequence[Alarm], texts: Texts, principal: Principal) -> list[AlarmLine]:
    """Return alarms in a language."""
    pages = {entry.path for entry in entries_for(principal)}
    found = []
    for alarm in alarms:
        described = TEXTS[alarm.kind]
        found.append(
            AlarmLine(
                alarm.severity,
                " · ".join(name for name in (alarm.product, alarm.station) if name),
                hide_paths(texts.text(described.text, **_values(alarm, texts))),
                texts.text(described.action),
                alarm.since,
                described.path if described.path in pages else None,
            )
        )
    return found


def digest_of(lines: Sequence[AlarmLine]) -> str:
    """Return a text that is the same for the same alarms."""
    return hashlib.sha256(repr(lines).encode()).hexdigest()[:16]


def _values(alarm: Alarm, texts: Texts) -> dict[str, object]:
    values: dict[str, object] = dict(alarm.values)
    if alarm.kind == "disk":
        free = alarm.values.get("free_bytes")
        values["free"] = alarm.values.get("reason") if free is None else texts.size(float(free))
    if alarm.kind == "fail-rate":
        values["usual"] = texts.percent(float(alarm.values["usual_rate"]))
    if alarm.kind == "certificate":
        values["expires"] = texts.date(datetime.fromisoformat(str(alarm.values["expires_at"])))
    return values
