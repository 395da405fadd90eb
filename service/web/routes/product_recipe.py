"""The editor of a product's recipe."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import DistributionsDep, InspectionsDep
from service.api.http.access import requires
from service.api.parameters import ProductPath
from service.api.recipe_preview_mapping import to_distributions
from service.inspection.decoding.pixel_formats import PIXEL_FORMATS
from service.schemas.common import LABEL_PATTERN
from service.schemas.sections import InvalidReason
from service.store.inspection_filter import InspectionFilter
from service.store.records import InspectionRecord
from service.web.nearest_limit import LIMIT_NAMES, nearest_limit
from service.web.page import PagesDep
from service.web.product_frame import frame, product_of

router = APIRouter(include_in_schema=False)

MEASURED_H = 8
_SEARCHED = 50


@router.get("/products/{product}/recipe")
@requires("engineer")
def recipe_page(
    request: Request,
    product: ProductPath,
    pages: PagesDep,
    distributions: DistributionsDep,
    inspections: InspectionsDep,
    inspection: Annotated[str | None, Query(max_length=64, pattern=LABEL_PATTERN)] = None,
) -> Response:
    """Return the editor of the recipe, with an image to draw polygons on and the measured image quality."""
    found = product_of(request, product)
    context = frame(found, pages.texts(request))
    if found.recipe is None:
        return pages.page(request, "product_not_ready.html", **context)
    page = inspections.search(InspectionFilter(product), None, _SEARCHED)
    images = [record for record in page.items if record.artefacts_removed_at is None]
    shown = to_distributions(product, distributions.distributions(product, MEASURED_H))
    context |= {
        "recipe": found.recipe,
        "values": found.recipe.recipe.model_dump(mode="json"),
        "image": _chosen(images, inspection),
        "images": images[:12],
        "quality": {item.measure: item for item in shown.quality},
        "limit_names": LIMIT_NAMES,
        "nearest": nearest_limit(shown.quality),
        "measured_hours": MEASURED_H,
        "pixel_formats": list(PIXEL_FORMATS),
        "checks": list(InvalidReason),
    }
    return pages.page(request, "product_recipe.html", **context)


def _chosen(images: list[InspectionRecord], inspection: str | None) -> InspectionRecord | None:
    """Return the image that was chosen, or else the newest one."""
    return next((record for record in images if record.id == inspection), images[0] if images else None)
