"""The history of a product's recipe, and the differences between two revisions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.deps import RecipesDep
from service.api.http.access import requires
from service.api.mapping import to_recipe_record, to_revision_facts
from service.api.parameters import ProductPath
from service.web.page import PagesDep
from service.web.product_frame import frame, product_of

router = APIRouter(include_in_schema=False)

MAX_REVISIONS = 500
Revision = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


@router.get("/products/{product}/history")
@requires("engineer")
def history_page(
    request: Request,
    product: ProductPath,
    pages: PagesDep,
    recipes: RecipesDep,
    before: Revision = None,
    after: Revision = None,
) -> Response:
    """Return the revisions of the recipe, and what differs between two of them; by default the newest two."""
    context = frame(product_of(request, product), pages.texts(request))
    revisions = [to_recipe_record(revision) for revision in recipes.history(product, MAX_REVISIONS)]
    newest = [record.revision for record in revisions[:2]]
    if after is None and newest:
        after = newest[0]
    if before is None and newest:
        before = newest[-1]
    difference = None
    if before is not None and after is not None:
        found = recipes.compare(product, before, after)
        difference = {
            "before": to_revision_facts(found.before),
            "after": to_revision_facts(found.after),
            "values": found.values,
        }
    context |= {"revisions": revisions, "difference": difference}
    return pages.page(request, "product_history.html", **context)
