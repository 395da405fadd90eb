"""Products of the model repository."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.deps import PrincipalDep, ProductsDep
from service.api.http.access import requires
from service.api.http.problems import problem_responses
from service.api.mapping import to_product
from service.api.parameters import ProductPath
from service.deployment.errors import UnknownProduct
from service.errors import InvalidRequest
from service.schemas.product import Product, ProductList

router = APIRouter(prefix="/v1/products", tags=["products"])


@router.get("", operation_id="list_products", summary="List products", responses=problem_responses())
@requires("inspect", filters=True)
async def list_products(products: ProductsDep, principal: PrincipalDep) -> ProductList:
    """Return every product of the model repository, served or not. A restricted key sees those that it permits."""
    permitted = principal.products
    states = [state for state in products.list_products() if permitted is None or state.name in permitted]
    return ProductList(items=[to_product(state, principal.stations) for state in states])


@router.get(
    "/{product}",
    operation_id="get_product",
    summary="Get a product",
    responses=problem_responses(UnknownProduct, InvalidRequest),
)
@requires("inspect")
async def read_product(product: ProductPath, products: ProductsDep, principal: PrincipalDep) -> Product:
    """Return a product with its bundle, its calibration and its recipe, or the reason why it is not served."""
    return to_product(await products.find(product), principal.stations)
