"""Alarms as the pages show them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from service.access.principal import Principal
from service.api.http.server_paths import hide_paths
from service.languages import Texts
from service.schemas.alarm import Severity
from service.schemas.sections import InvalidReason
from service.serving.alarm_texts import TEXTS
from service.serving.alarms import Alarm
from service.web.navigation import entries_for


def _(message: str) -> str:
    """Mark a message for the catalogue."""
    return message


_REASONS: Mapping[str, str] = {
    InvalidReason.UNDER_EXPOSED: _("too dark"),
    InvalidReason.OVER_EXPOSED: _("too bright"),
    InvalidReason.BLURRED: _("blurred"),
    InvalidReason.EMPTY_FRAME: _("they show nothing"),
    InvalidReason.FROZEN_FRAME: _("always the same image"),
    InvalidReason.WRONG_SIZE: _("wrong size"),
}
_CHANGES: Mapping[str, str] = {
    "p_value": _("scores"),
    "brightness": _("brightness"),
    "contrast": _("contrast"),
    "sharpness": _("sharpness"),
    "colour": _("colour"),
    "reject_rate": _("share of rejected parts"),
    "false_reject": _("false rejects found in reviews"),
}


@dataclass(frozen=True)
class AlarmLine:
    """One alarm, in the language of the page.

    Attributes:
        id: Identifies the alarm while its values change.
        severity: Its severity.
        where: Product and station; empty if it concerns all.
        text: What is wrong.
        action: What to do.
        since: When it was noticed first: the time, and the date if that is not today.
        path: Page on which to act; None if the person may not open it.
        page: Title of that page.
    """

    id: str
    severity: Severity
    where: str
    text: str
    action: str
    since: str
    path: str | None
    page: str


def lines_of(alarms: Sequence[Alarm], texts: Texts, principal: Principal) -> list[AlarmLine]:
    """Return alarms in a language."""
    pages = {entry.path: texts.text(entry.title) for entry in entries_for(principal)}
    today = datetime.now(UTC).astimezone(texts.zone).date()
    found = []
    for alarm in alarms:
        described = TEXTS[alarm.kind]
        found.append(
            AlarmLine(
                hashlib.sha256(repr(alarm.key).encode()).hexdigest()[:16],
                alarm.severity,
                " · ".join(name for name in (alarm.product, alarm.station) if name),
                hide_paths(texts.text(described.text, **_values(alarm, texts))),
                texts.text(described.action),
                (texts.time if alarm.since.astimezone(texts.zone).date() == today else texts.date_time)(alarm.since),
                described.path if described.path in pages else None,
                pages.get(described.path or "", ""),
            )
        )
    return found


def digest_of(lines: Sequence[AlarmLine]) -> str:
    """Return a text that is the same for the same alarms."""
    return hashlib.sha256(repr(lines).encode()).hexdigest()[:16]


def _values(alarm: Alarm, texts: Texts) -> dict[str, object]:
    values: dict[str, object] = dict(alarm.values)
    if alarm.kind == "invalid-images":
        reasons = str(alarm.values["reason"]).split(", ")
        values["reason"] = ", ".join(texts.text(_REASONS.get(reason, reason)) for reason in reasons if reason)
    if alarm.kind in {"drift", "guarantee-suspended"}:
        values["name"] = texts.text(_CHANGES.get(str(alarm.values["name"]), str(alarm.values["name"])))
    if alarm.kind == "disk":
        free = alarm.values.get("free_bytes")
        values["free"] = alarm.values.get("reason") if free is None else texts.size(float(free))
    if alarm.kind == "fail-rate":
        values["usual"] = texts.percent(float(alarm.values["usual_rate"]))
    if alarm.kind == "certificate":
        values["expires"] = texts.date(datetime.fromisoformat(str(alarm.values["expires_at"])))
    return values
