"""Drift in words: what changed, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from service.monitoring.drift.records import IMAGE_KINDS
from service.schemas.drift import DriftDirection, DriftKind, DriftState

_CHANGES: Mapping[tuple[DriftKind, DriftDirection], str] = {
    ("p_value", "higher"): "good parts score higher than the calibration images",
    ("p_value", "lower"): "parts score lower than the calibration images",
    ("p_value", "wider"): "scores vary more than those of the calibration images",
    ("brightness", "higher"): "images are brighter",
    ("brightness", "lower"): "images are darker",
    ("brightness", "wider"): "the brightness varies more",
    ("contrast", "higher"): "images have more contrast",
    ("contrast", "lower"): "images have less contrast",
    ("contrast", "wider"): "the contrast varies more",
    ("sharpness", "higher"): "images are sharper or noisier",
    ("sharpness", "lower"): "images are less sharp",
    ("sharpness", "wider"): "the sharpness varies more",
}
_LIGHT: frozenset[DriftKind] = frozenset({"brightness", "colour"})
_REMEDIES: Mapping[DriftKind, str] = {
    "p_value": "Compare the newest images with those of the calibration. If the change is to stay, propose thresholds "
    "from new good images and apply them, or train a new bundle. Otherwise remove the cause and acknowledge the alarm.",
    "brightness": "Check the light source, the exposure and stray light. Restore them and acknowledge the alarm, or "
    "recalibrate with new good images.",
    "contrast": "Check the lens, dirt on the optics, and the exposure. Restore them and acknowledge the alarm, or "
    "recalibrate with new good images.",
    "sharpness": "Check focus, distance, vibration and dirt on the lens. Restore them and acknowledge the alarm, or "
    "recalibrate with new good images.",
    "colour": "Check the light source and the white balance. Restore them and acknowledge the alarm, or recalibrate "
    "with new good images.",
    "reject_rate": "Review rejected parts. If they are defective, find the cause in the process and acknowledge the "
    "alarm. If they are good, recalibrate with new good images.",
    "false_reject": "Recalibrate: propose thresholds with the parts that reviews found to be good, and apply them.",
}


def describe(kind: DriftKind, direction: DriftDirection | None) -> str:
    """Return what a stream found, as a part of a sentence."""
    if kind == "colour":
        return "the colour of the images changed"
    if kind == "reject_rate":
        return "more parts are rejected than before"
    if kind == "false_reject":
        return "reviews found more good parts among the rejected ones than the bound permits"
    return _CHANGES[kind, direction or "wider"]


def explain(found: Collection[tuple[DriftKind, DriftDirection | None]]) -> str:
    """Return the most likely cause of alarms, and what each of them found.

    Args:
        found: Kind and direction of the alarms, at least one.
    """
    details = list(dict.fromkeys(describe(kind, direction) for kind, direction in found))
    return f"{_cause({kind for kind, _ in found})}: {', '.join(details)}."


def explain_stream(kind: DriftKind, direction: DriftDirection | None, state: DriftState, count: int) -> str:
    """Return what one stream shows."""
    if state == "collecting":
        return f"The first inspections become the reference; {count} are collected."
    if state == "alarm":
        return explain([(kind, direction)])
    return "No drift was found."


def remedy(kind: DriftKind) -> str:
    """Return what to do about an alarm."""
    return _REMEDIES[kind]


def _cause(kinds: Collection[DriftKind]) -> str:
    if _LIGHT.intersection(kinds):
        return "The light changed"
    if set(IMAGE_KINDS).intersection(kinds):
        return "The focus, the lens or the exposure changed"
    if "p_value" in kinds:
        return "The parts or their position changed; no change of light or focus was found"
    if "reject_rate" in kinds:
        return "The reject rate rose; no change of the images was found"
    return "The false-reject rate is too high"
