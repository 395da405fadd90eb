"""Teach a product: send good images, and follow the training jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.principal import Principal
from service.access.restrictions import require_all_stations, require_product
from service.api.deps import PrincipalDep, ProductsDep, SettingsDep, TrainingDep
from service.api.http.access import requires
from service.api.training_mapping import to_training_job
from service.languages import Texts
from service.languages import mark as _
from service.schemas.common import Name
from service.schemas.training import MIN_FULL_IMAGES, MIN_QUICK_IMAGES, TrainingFindings
from service.serving.products import ProductService
from service.serving.training.jobs import TrainingService
from service.web.page import Pages, PagesDep

router = APIRouter(include_in_schema=False)

MAX_JOBS = 20
# The stages of `training.pipeline` and of the worker. Another one is shown as the worker names it.
STAGES: Mapping[str, str] = {
    "begin": _("beginning"),
    "get the images": _("getting the images"),
    "check the good images": _("checking the good images"),
    "read images": _("reading the images"),
    "train": _("training"),
    "build the anomaly map": _("building the anomaly map"),
    "export and compare": _("exporting and comparing"),
    "calibrate": _("calibrating"),
    "check with synthetic anomalies": _("checking with synthetic anomalies"),
    "compare the groups": _("comparing the groups"),
    "upload the bundle": _("uploading the bundle"),
}
GROUPED_BY: Mapping[str, str] = {
    "date-in-name": _("by dates in their names"),
    "folder": _("by folders"),
    "prefix": _("by common prefixes of their names"),
}
MAX_SUSPECTED = 10
VARIANTS: Mapping[str, str] = {"quick": _("first bundle"), "full": _("whole training")}


@router.get("/training")
@requires("engineer", filters=True)
def training_page(
    request: Request,
    pages: PagesDep,
    products: ProductsDep,
    training: TrainingDep,
    principal: PrincipalDep,
    settings: SettingsDep,
    product: Annotated[Name | None, Query()] = None,
) -> Response:
    """Return the page on which good images are sent."""
    if product is not None:
        require_product(principal, product)
    known = _known(products, principal)
    limits = {
        "quick": MIN_QUICK_IMAGES,
        "full": MIN_FULL_IMAGES,
        "images": settings.max_call_images,
        "bytes": settings.max_call_bytes,
    }
    jobs = _jobs(request, pages, training, principal, known)
    return pages.page(request, "training.html", products=known, product=product, limits=limits, **jobs)


@router.get("/training:jobs")
@requires("engineer", filters=True)
def jobs_part(
    request: Request, pages: PagesDep, products: ProductsDep, training: TrainingDep, principal: PrincipalDep
) -> Response:
    """Return the list of jobs."""
    jobs = _jobs(request, pages, training, principal, _known(products, principal))
    return pages.page(request, "training_jobs.html", **jobs)


def _known(products: ProductService, principal: Principal) -> list[str]:
    permitted = principal.products
    return [one.name for one in products.list_products() if permitted is None or one.name in permitted]


def _jobs(
    request: Request, pages: Pages, training: TrainingService, principal: Principal, known: Sequence[str]
) -> dict[str, Any]:
    require_all_stations(principal)
    texts = pages.texts(request)
    found = [to_training_job(job) for job in training.list_jobs(principal.products, None, MAX_JOBS).items]
    return {
        "jobs": found,
        "known": known,
        "max_suspected": MAX_SUSPECTED,
        "stage_text": lambda stage: _stage_text(texts, stage),
        "groups_text": lambda findings: _groups_text(texts, findings),
    }


def _groups_text(texts: Texts, findings: TrainingFindings) -> str:
    """Return a sentence about the capture groups of a job and how they are used."""
    if findings.grouped_by == "none":
        return texts.text(
            _(
                "No capture groups were found: all images count as one session. Sort images of different days or lots "
                "into folders, or put dates into their names, to calibrate across them."
            )
        )
    names = ", ".join(findings.groups) + (", …" if findings.group_count > len(findings.groups) else "")
    values = {
        "count": texts.number(findings.group_count),
        "property": texts.text(GROUPED_BY[findings.grouped_by]),
        "names": names,
    }
    if not findings.held_out_groups:
        return texts.text(
            _(
                "%(count)s capture groups %(property)s: %(names)s. They are too large to be held out as a whole for "
                "the thresholds, so single images are."
            ),
            **values,
        )
    return texts.text(
        _("%(count)s capture groups %(property)s: %(names)s. Held out as a whole for the thresholds: %(held_out)s."),
        held_out=texts.number(findings.held_out_groups),
        **values,
    )


def _stage_text(texts: Texts, stage: str) -> str:
    """Return the name of a stage, with the bundle that it belongs to, in the language of the page."""
    variant, separator, title = stage.partition(": ")
    if not separator or variant not in VARIANTS:
        variant, title = "", stage
    name = texts.text(STAGES[title]) if title in STAGES else title
    return f"{texts.text(VARIANTS[variant])}: {name}" if variant else name
