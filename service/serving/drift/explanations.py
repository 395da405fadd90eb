"""Drift in words: what changed, and what to do about it. The pages translate these texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from service.languages import mark as _
from service.monitoring.drift.records import IMAGE_KINDS
from service.schemas.drift import DriftDirection, DriftKind, DriftState

_CHANGES: Mapping[tuple[DriftKind, DriftDirection], str] = {
    ("p_value", "higher"): _("good parts score higher than the calibration images"),
    ("p_value", "lower"): _("parts score lower than the calibration images"),
    ("p_value", "wider"): _("scores vary more than those of the calibration images"),
    ("brightness", "higher"): _("images are brighter"),
    ("brightness", "lower"): _("images are darker"),
    ("brightness", "wider"): _("the brightness varies more"),
    ("contrast", "higher"): _("images have more contrast"),
    ("contrast", "lower"): _("images have less contrast"),
    ("contrast", "wider"): _("the contrast varies more"),
    ("sharpness", "higher"): _("images are sharper or noisier"),
    ("sharpness", "lower"): _("images are less sharp"),
    ("sharpness", "wider"): _("the sharpness varies more"),
}
_OTHER_CHANGES: Mapping[DriftKind, str] = {
    "colour": _("the colour of the images changed"),
    "reject_rate": _("more parts are rejected than before"),
    "false_reject": _("reviews found more good parts among the rejected ones than the bound permits"),
}
_COLLECTING = _("The first inspections become the reference; %(count)s are collected.")
_NOTHING = _("No drift was found.")
_LIGHT: frozenset[DriftKind] = frozenset({"brightness", "colour"})
_REMEDIES: Mapping[DriftKind, str] = {
    "p_value": _(
        "Compare the newest images with those of the calibration. If the change is to stay, propose thresholds "
        "from new good images and apply them, or train a new bundle. Otherwise remove the cause and acknowledge the "
        "alarm."
    ),
    "brightness": _(
        "Check the light source, the exposure and stray light. Restore them and acknowledge the alarm, or "
        "recalibrate with new good images."
    ),
    "contrast": _(
        "Check the lens, dirt on the optics, and the exposure. Restore them and acknowledge the alarm, or "
        "recalibrate with new good images."
    ),
    "sharpness": _(
        "Check focus, distance, vibration and dirt on the lens. Restore them and acknowledge the alarm, or "
        "recalibrate with new good images."
    ),
    "colour": _(
        "Check the light source and the white balance. Restore them and acknowledge the alarm, or recalibrate "
        "with new good images."
    ),
    "reject_rate": _(
        "Review rejected parts. If they are defective, find the cause in the process and acknowledge the "
        "alarm. If they are good, recalibrate with new good images."
    ),
    "false_reject": _("Recalibrate: propose thresholds with the parts that reviews found to be good, and apply them."),
}


Say = Callable[[str], str]
"""Returns a text in the language of the reader."""


def describe(kind: DriftKind, direction: DriftDirection | None, say: Say = str) -> str:
    """Return what a stream found, as a part of a sentence.

    Args:
        kind: What is monitored.
        direction: How the values changed.
        say: Translates a text; `str` leaves it in English.
    """
    return say(_OTHER_CHANGES.get(kind) or _CHANGES[kind, direction or "wider"])


def explain(found: Collection[tuple[DriftKind, DriftDirection | None]], say: Say = str) -> str:
    """Return the most likely cause of alarms, and what each of them found.

    Args:
        found: Kind and direction of the alarms, at least one.
        say: Translates a text; `str` leaves it in English.
    """
    details = list(dict.fromkeys(describe(kind, direction, say) for kind, direction in found))
    return f"{say(_cause({kind for kind, _ in found}))}: {', '.join(details)}."


def explain_stream(
    kind: DriftKind, direction: DriftDirection | None, state: DriftState, count: int, say: Say = str
) -> str:
    """Return what one stream shows.

    Args:
        kind: What is monitored.
        direction: How the values changed.
        state: State of the stream.
        count: Inspections that were counted.
        say: Translates a text; `str` leaves it in English.
    """
    if state == "collecting":
        return say(_COLLECTING) % {"count": count}
    if state == "alarm":
        return explain([(kind, direction)], say)
    return say(_NOTHING)


def remedy(kind: DriftKind, say: Say = str) -> str:
    """Return what to do about an alarm.

    Args:
        kind: What is monitored.
        say: Translates a text; `str` leaves it in English.
    """
    return say(_REMEDIES[kind])


def _cause(kinds: Collection[DriftKind]) -> str:
    if _LIGHT.intersection(kinds):
        return _("The light changed")
    if set(IMAGE_KINDS).intersection(kinds):
        return _("The focus, the lens or the exposure changed")
    if "p_value" in kinds:
        return _("The parts or their position changed; no change of light or focus was found")
    if "reject_rate" in kinds:
        return _("The reject rate rose; no change of the images was found")
    return _("The false-reject rate is too high")
