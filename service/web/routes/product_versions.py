"""The bundles of a product: activate, roll back, run as a shadow, compare."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.deps import BundlesDep
from service.api.http.access import requires
from service.api.mapping import to_bundle_record, to_choice_record, to_comparison_record
from service.api.parameters import ProductPath
from service.deployment.errors import ProductNotReady, ShadowRefused
from service.schemas.bundle import ComparisonRecord
from service.serving.bundles import BundleService
from service.web.page import Pages, PagesDep
from service.web.product_frame import frame, product_of

router = APIRouter(include_in_schema=False)

COMPARED = 1000
MAX_CHOICES = 20


@router.get("/products/{product}/versions")
@requires("engineer")
def versions_page(request: Request, product: ProductPath, pages: PagesDep, bundles: BundlesDep) -> Response:
    """Return the page of the bundles of a product."""
    return pages.page(request, "product_versions.html", **_context(request, product, pages, bundles))


@router.get("/products/{product}/versions:table")
@requires("engineer")
def versions_part(request: Request, product: ProductPath, pages: PagesDep, bundles: BundlesDep) -> Response:
    """Return the content of the page after a change."""
    return pages.page(request, "product_versions_table.html", **_context(request, product, pages, bundles))


def _context(request: Request, product: str, pages: Pages, bundles: BundleService) -> dict[str, Any]:
    listed = bundles.list_bundles(product)
    comparison = _comparison(bundles, product)
    return {
        **frame(product_of(request, product), pages.texts(request)),
        "bundles": [to_bundle_record(version) for version in listed.versions],
        "active": listed.active,
        "shadow": listed.shadow,
        "choices": [to_choice_record(choice) for choice in bundles.history(product, "active", MAX_CHOICES)],
        "comparison": comparison,
        "compared": COMPARED,
    }


def _comparison(bundles: BundleService, product: str) -> ComparisonRecord | None:
    """Return the comparison of the active bundle and its latest shadow; None if there is nothing to compare."""
    try:
        return to_comparison_record(product, bundles.compare(product, None, None, COMPARED))
    except (ShadowRefused, ProductNotReady):
        return None
