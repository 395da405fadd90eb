"""Problems of the API in the language of a page, by their type and the values that they contain.

Texts of the API are in English. In another language, the title of a problem is that of its class, translated; what
happened and what to do is a text of the table below; and violations are texts of `service.schemas.violation_texts`. A
problem that the table does not contain keeps its text in English: no form of a page causes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from service.api.http.problems import catalogue, problem_body
from service.errors import PlumblineError
from service.languages import SOURCE, Texts
from service.languages import mark as _
from service.schemas.violation_texts import fill, template_of

_BUSY = _("Other requests of this kind are running, and their number is limited. Try again in a few seconds.")
_BUNDLE = _(
    "Bundle %(bundle)s cannot be used. The product keeps the bundle that served before. Details are on the "
    "page System and in the log."
)
_GONE = _("It may have been removed or changed meanwhile. Load the page again.")
_RETRY = _("The service is at its limit. Try again in a few seconds.")

DETAILS: Mapping[str, str] = {
    "account-exists": _("There is an account %(name)s already, maybe a disabled one. Choose another name."),
    "area-mismatch": _(
        "The image has %(width)s x %(height)s pixels, and the ROI or ignore polygons of the recipe do not fit it. "
        "Check the resolution of the camera, or draw the polygons again."
    ),
    "artefact-gone": _(
        "The file is no longer stored; the record of the inspection still is. The recipe states under Retention "
        "how long images are kept."
    ),
    "bad-archive": _("The zip file is damaged, encrypted or no zip file. Create it again, and send it again."),
    "body-too-large": _("The file is larger than %(limit_bytes)s bytes. Use a smaller or compressed image."),
    "bundle-change-under-way": _(
        "Another change of the bundles of %(product)s is in progress, and only one is allowed at a time. Nothing "
        "was changed. Wait for it, and load the page again."
    ),
    "bundle-external-data": _BUNDLE,
    "bundle-integrity": _(
        "Bundle %(bundle)s was changed or is incomplete. Copy it again from where it was trained; the product "
        "keeps the bundle that served before."
    ),
    "bundle-invalid": _BUNDLE,
    "bundle-of-other-product": _("Bundle %(bundle)s was made for another product."),
    "bundle-removed": _(
        "Bundle %(version)s of %(product)s was removed from the bundle store, because nothing needed it any more. To "
        "use it again, upload it from a copy."
    ),
    "bundle-schema": _(
        "Bundle %(bundle)s was exported by a training package of another major version than the service. Export "
        "it again with a matching one."
    ),
    "bundle-store-unavailable": _(
        "The bundle store cannot be used. Bundles that are loaded serve as before. Try again in a few seconds; details "
        "are on the page System and in the log."
    ),
    "explanation-differs": _(
        "Bundle %(version)s computes another anomaly map now than the stored one, so an explanation would be that of "
        "another decision and is not shown. Replay the inspection to compare the scores."
    ),
    "corrupt-image": _(
        "The image (%(media_type)s) is truncated or damaged and is not inspected. Check camera and transfer, and "
        "send it again."
    ),
    "csrf-failed": _("The page is no longer valid. Load it again, and repeat the action."),
    "deadline-exceeded": _("The image waited too long in the queue and got no verdict. Try again in a few seconds."),
    "export-format-unavailable": _(
        "The format %(format)s needs a package that is not installed on the machine of the service: pip install "
        "./client '.[%(extra)s]' in a checkout of Plumbline. Choose the format csv instead."
    ),
    "good-images-busy": _BUSY,
    "foreign-origin": _(
        "A page of another host sent this request, so it was refused. Open the pages under the address of the service."
    ),
    "image-too-complex": _(
        "The image (%(media_type)s) needs too much work to decode. Save it again with usual settings."
    ),
    "inspection-removed": _(
        "The inspection %(inspection_id)s is no longer stored: records of its time were removed, because they are kept "
        "for a limited time. If it is needed, a backup of the database may contain it."
    ),
    "insufficient-scope": _(
        "Your account may not do this: it needs the right %(required)s. An administrator can create an account "
        "with another role."
    ),
    "internal-error": _(
        "The service failed unexpectedly. Report the failure; the log has the request id %(instance)s."
    ),
    "key-exists": _("There is a valid API key %(name)s already. Choose another name, or revoke that key first."),
    "last-admin": _(
        "The account %(name)s is the last enabled administrator, and no API key has the scope admin. Nothing was "
        "changed. Give another account the role admin first."
    ),
    "login-failed": _(
        "The name or the password is wrong, or the account is disabled. An administrator can set a new password."
    ),
    "memory-budget-exceeded": _RETRY,
    "no-open-drift-alarm": _(
        "No drift alarm of %(product)s is open. It was acknowledged already, or ended by another recipe or "
        "bundle. Load the page again."
    ),
    "no-review-to-withdraw": _("There is no review that could be undone. Load the page again."),
    "no-session": _("You are not logged in with an account. Log in, and try again."),
    "not-an-image": _("The file is not a supported image. Supported are: %(expected)s."),
    "not-authenticated": _("You are not logged in, or the session has ended. Log in, and try again."),
    "no-explanation": _(
        "Bundle %(version)s cannot explain its anomaly maps, because it was trained before explanations were stored, "
        "or its method does not add up maps. Train %(product)s again; inspections of the new bundle can be explained."
    ),
    "not-judged": _("The quality check rejected the image (invalid), so it has no heatmap and cannot be replayed."),
    "nothing-to-roll-back-to": _(
        "%(product)s has no earlier bundle to return to. Nothing was changed. Activate a bundle by its version."
    ),
    "parity-failure": _(
        "Bundle %(bundle)s gives other results on this machine than in training, so it is not used. Export it "
        "again on this machine, or use the execution provider that it was calibrated on."
    ),
    "pixel-mismatch": _(
        "The image does not match what the recipe states about the camera: pixel format, bit depth or levels. "
        "Change the settings of the camera, or the recipe."
    ),
    "previews-busy": _BUSY,
    "product-not-ready": _(
        "%(product)s is not in service now: its bundle is being loaded, cannot be used, or was not activated. The "
        "page of the product states the reason."
    ),
    "proposal-outdated": _(
        "The proposal was made for another bundle. Create a new one for the active bundle. Nothing was changed."
    ),
    "proposals-busy": _BUSY,
    "provider-unavailable": _(
        "The execution provider %(requested)s was requested but cannot be used. Install its libraries and "
        "drivers, or choose another one in the settings."
    ),
    "queue-full": _("More images arrive than the service can inspect. Try again in a few seconds."),
    "recipe-conflict": _(
        "Another person changed the recipe of %(product)s meanwhile (revision %(current_revision)s). Nothing was "
        "changed. Load the page again, and decide anew."
    ),
    "recipe-unreadable": _(
        "Revision %(revision)s of the recipe of %(product)s was stored by another version of Plumbline and cannot "
        "be read. Run that version or a newer one."
    ),
    "records-busy": _BUSY,
    "removal-not-confirmed": _(
        "The change would remove the images of %(removed)s inspections of %(product)s and keep those of %(kept)s. "
        "Nothing was changed. Only an administrator can confirm this."
    ),
    "replay-busy": _BUSY,
    "request-timeout": _("The request arrived too slowly. Check the network, and try again."),
    "reviews-busy": _BUSY,
    "score-not-finite": _(
        "The bundle computed no valid score for this image, so there is no verdict. Treat the part as not inspected."
    ),
    "self-test-failed": _(
        "Bundle %(bundle)s exceeded the time or the memory of its self-test. Raise the limit in the settings if "
        "the machine is slow, otherwise export the bundle again."
    ),
    "shadow-not-loaded": _("The bundle is not the shadow now. Start it as the shadow again to see its heatmaps."),
    "shadow-refused": _(
        "The bundle is the active one already, no bundle is active, or there is no shadow. Nothing was changed. "
        "Load the page again."
    ),
    "shutting-down": _("The service is shutting down. Try again in a few seconds."),
    "sink-not-configured": _(
        "The sink %(sink)s is not configured any more, so nothing can be sent to it. Configure it, or discard the "
        "messages."
    ),
    "store-unavailable": _(
        "The database or the disk of the service cannot be used. Check disk space and database: `plumbline "
        "doctor` on the machine of the service names the remedy."
    ),
    "stored-image-unreadable": _(
        "The stored image is damaged, or only an older version of Plumbline could decode it. The decision stays."
    ),
    "too-many-connections": _RETRY,
    "too-many-event-streams": _("Too many pages show live results. Close pages that are not used."),
    "too-many-logins": _("There were too many attempts to log in. Try again after %(retry_after)s s."),
    "too-many-pixels": _(
        "The image has %(width)s x %(height)s pixels; at most %(limit_pixels)s pixels are allowed. Use a smaller image."
    ),
    "unknown-account": _("There is no account %(account)s. %(gone)s"),
    "training-job-ended": _("The training job has ended already. Nothing was changed."),
    "training-storage-full": _(
        "The images of training jobs may take %(limit_bytes)s bytes, and %(stored_bytes)s are in use. Nothing was "
        "stored. Wait until other jobs have ended, cancel some, or send fewer images."
    ),
    "unknown-bundle": _("%(product)s has no bundle %(version)s. %(gone)s"),
    "unknown-dead-letter": _("The message was sent again, delivered or discarded meanwhile. Load the page again."),
    "unknown-inspection": _("There is no inspection %(inspection_id)s."),
    "unknown-key": _("There is no API key %(key_id)s. %(gone)s"),
    "unknown-product": _("There is no product %(product)s."),
    "unknown-proposal": _("There is no proposal with this id. Nothing was changed."),
    "unknown-revision": _("The recipe of %(product)s has no revision %(revision)s."),
    "unsupported-image": _(
        "The image (%(media_type)s) uses a feature that is not supported. Change the settings of the camera or of "
        "the program that writes it."
    ),
    "unsupported-media-type": _("This kind of file is not accepted. Supported are: %(expected)s."),
    "version-not-active": _("Version %(version)s of %(product)s is not active. %(gone)s"),
    "wrong-password": _(
        "The current password is wrong, so the password was not changed. An administrator can set a new one."
    ),
}
"""What happened and what to do, by the slug of the problem, for all problems that forms and pages cause.

Problems about entries, such as `invalid-request`, are missing: their text consists of the violations."""
_SUMMARIES: Mapping[str, str] = {
    "account-refused": _("The account was not changed: %(violations)s."),
    "invalid-grant": _("The key was not created: %(violations)s."),
    "invalid-recipe": _("%(violations)s. Nothing was changed."),
    "invalid-request": _("The entries are not valid: %(violations)s."),
}
ABOUT_ENTRIES = frozenset(_SUMMARIES)
"""Slugs of the problems whose text consists of violations."""
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def translate(problem: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """Return a problem with title, detail and violations in the language of a page.

    Args:
        problem: The problem document.
        texts: Texts of the language.
    """
    found = dict(problem)
    if texts.language == SOURCE:
        return found
    slug = slug_of(problem)
    if slug in _titles():
        found["title"] = texts.text(_titles()[slug])
    if isinstance(problem.get("errors"), list):
        found["errors"] = [translate_violation(item, texts) for item in problem["errors"]]
    if slug in _SUMMARIES and found.get("errors"):
        found["detail"] = texts.text(_SUMMARIES[slug], violations="; ".join(_located(item) for item in found["errors"]))
    elif slug in DETAILS:
        found["detail"] = _detail(DETAILS[slug], problem, texts)
    return found


def describe(error: PlumblineError, texts: Texts) -> str:
    """Return what happened and what to do, in the language of a page.

    Args:
        error: The failure.
        texts: Texts of the language.
    """
    detail: str = translate(problem_body(error, ""), texts)["detail"]
    return detail


def slug_of(problem: Mapping[str, Any]) -> str:
    """Return the slug of the type of a problem."""
    return str(problem.get("type", "")).rpartition("#")[2]


@cache
def _titles() -> Mapping[str, str]:
    """Return the title of every problem by its slug."""
    return {slug: kind.title for slug, kind in catalogue().items()}


def _detail(message: str, problem: Mapping[str, Any], texts: Texts) -> str:
    values = {name: _written(problem.get(name), texts) for name in _PLACEHOLDER.findall(message)}
    if "gone" in values:
        values["gone"] = texts.text(_GONE)
    return texts.text(message, **values)


def _written(value: Any, texts: Texts) -> str:
    """Return a member of a problem as it is written in a text."""
    match value:
        case None:
            return "–"
        case int() | float():
            return texts.number(value)
        case list():
            return ", ".join(map(str, value))
    return str(value)


def translate_violation(item: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """Return a violation in the language of a page; unchanged if its text is not in the table.

    Args:
        item: The violation, as `service.schemas.violations` describes it.
        texts: Texts of the language.
    """
    if texts.language == SOURCE:
        return dict(item)
    params: Mapping[str, Any] = item.get("params", {})
    template = template_of(str(item.get("type", "")), params)
    if template is None:
        return dict(item)
    values = dict(params)
    if "kind" in values:
        values["kind"] = texts.text(values["kind"])
    text = fill(texts.text(template), values, texts.general)
    return {**item, "msg": text}


def _located(item: Mapping[str, Any]) -> str:
    place = ".".join(str(step) for step in item.get("loc", ()) if step not in {"body", "query"})
    return f"{place}: {item['msg']}" if place else str(item["msg"])
