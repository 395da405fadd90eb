"""Products over HTTP."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.answers import product_answer
from service.api.deps import LineDep, ProductPath
from service.api.http.problems import problem_responses
from service.deployment.errors import UnknownProduct
from service.errors import InvalidRequest
from service.schemas.product import Product, ProductList
from service.serving.inspections import InspectionLine

router = APIRouter(prefix="/v1/products", tags=["products"])


@router.get("", operation_id="list_products", summary="List products", responses=problem_responses())
async def list_products(line: LineDep) -> ProductList:
    """Every product of the model repository, served or not."""
    return ProductList(items=[_product(line, name) for name in sorted(line.registry.known)])


@router.get(
    "/{product}",
    operation_id="get_product",
    summary="Read a product",
    responses=problem_responses(UnknownProduct, InvalidRequest),
)
async def read_product(product: ProductPath, line: LineDep) -> Product:
    """A product with its bundle, its calibration and its recipe; or why it is not served."""
    if product not in line.registry.known:
        raise UnknownProduct(product, line.registry.known)
    return _product(line, product)


def _product(line: InspectionLine, name: str) -> Product:
    registry = line.registry
    broken = [item for item in registry.broken if item.product == name]
    return product_answer(
        name, registry.active.get(name), registry.shadows.get(name), broken, is_loading=registry.is_loading(name)
    )
