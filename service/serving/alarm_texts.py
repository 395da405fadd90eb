"""What alarms mean and what to do, in English. The pages translate these texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.languages import mark as _
from service.schemas.alarm import AlarmKind
from service.serving.alarms import Alarm


@dataclass(frozen=True)
class AlarmText:
    """The texts of a kind of alarms.

    Attributes:
        text: What is wrong, with placeholders for values.
        action: What to do about it.
        path: Page on which to act; None if there is none.
    """

    text: str
    action: str
    path: str | None = None


TEXTS: Mapping[AlarmKind, AlarmText] = {
    "not-ready": AlarmText(
        _("No images are accepted: %(reason)s"),
        _("Tell the engineer. `plumbline doctor` on the machine of the service names the remedy."),
        "/system",
    ),
    "degraded": AlarmText(
        _("A bundle cannot be used: %(reason)s"),
        _("Activate another version of the bundle, or repair the model repository."),
        "/products",
    ),
    "store": AlarmText(
        _("Verdicts cannot be stored, so images are refused: %(reason)s"),
        _("Check the disk and the database. Parts that were not inspected must be inspected again."),
        "/system",
    ),
    "disk": AlarmText(
        _("Little disk space is free in the folder %(name)s: %(free)s"),
        _("Free disk space, or shorten the retention in the recipes."),
        "/system",
    ),
    "fail-rate": AlarmText(
        _("%(failed)s of the last %(parts)s parts fail; usually %(usual)s do."),
        _("Look at the failed parts: is it the parts, or the light, the lens or the position of the camera?"),
        "/",
    ),
    "guarantee-suspended": AlarmText(
        _("The guaranteed false-reject rate is suspended, because the images changed (%(name)s)."),
        _("Restore light and camera, or calibrate again; then acknowledge the change."),
        "/products",
    ),
    "drift": AlarmText(
        _("The images change (%(name)s)."),
        _("Compare with the images of the calibration: clean the lens, check the light."),
        "/products",
    ),
    "invalid-images": AlarmText(
        _("The last %(count)s images cannot be used: %(reason)s."),
        _("Check camera, light and lens of this station. Its parts are not inspected."),
        "/",
    ),
    "dead-letters": AlarmText(
        _("%(count)s results were not delivered to %(name)s."),
        _("Repair the receiver, then send the messages again."),
        "/system",
    ),
    "certificate": AlarmText(
        _("The TLS certificate expires on %(expires)s."),
        _("Renew the certificate. The service uses the new file without a restart."),
        "/system",
    ),
    "insecure": AlarmText(
        _("Access control is off: everyone in the network may change everything."),
        _("Create an account with `plumbline account create`, and unset PLUMBLINE_INSECURE."),
        "/system",
    ),
}


def values_of(alarm: Alarm) -> dict[str, object]:
    """Return the values for the text of an alarm, as English writes them."""
    values: dict[str, object] = dict(alarm.values)
    if alarm.kind == "disk":
        free = alarm.values.get("free_bytes")
        values["free"] = alarm.values.get("reason") if free is None else f"{float(free) / 2**30:.1f} GiB"
    if alarm.kind == "fail-rate":
        values["usual"] = f"{float(alarm.values['usual_rate']):.1%}"
    if alarm.kind == "certificate":
        values["expires"] = str(alarm.values["expires_at"])[:10]
    return values
