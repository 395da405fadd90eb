"""What all pages of a product have: name, state, guarantee and tabs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from service.api.deps import services_of
from service.api.mapping import to_product
from service.languages import Texts
from service.languages import mark as _
from service.schemas.product import Product
from service.web.bounds import bound_text


@dataclass(frozen=True)
class Tab:
    """A page of a product.

    Attributes:
        path: Its path.
        title: Its title in English, a message of the catalogue.
    """

    path: str
    title: str


def product_of(request: Request, name: str) -> Product:
    """Return a product as the API describes it.

    Raises:
        UnknownProduct: There is no such product.
    """
    return to_product(services_of(request).products.get(name))


def guarantee_of(product: Product) -> str:
    """Return `certified`, `suspended` or `none`."""
    return "none" if product.recipe is None else product.recipe.recipe.guarantee or "none"


def frame(product: Product, texts: Texts) -> dict[str, Any]:
    """Return what the templates of all pages of a product need.

    Args:
        product: The product.
        texts: Texts and numbers of the page.
    """
    path = f"/products/{product.product}"
    tabs = [
        Tab(path, _("Thresholds")),
        Tab(f"{path}/recipe", _("Recipe")),
        Tab(f"{path}/history", _("History")),
        Tab(f"{path}/versions", _("Versions")),
        Tab(f"{path}/drift", _("Drift")),
        Tab(f"{path}/report", _("Report")),
    ]
    return {
        "product": product,
        "guarantee": guarantee_of(product),
        "tabs": tabs,
        "bound": lambda bound, rate=None: bound_text(texts, bound, rate),
    }
