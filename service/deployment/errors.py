"""Failures of activating, comparing and replaying bundles."""

from __future__ import annotations

from collections.abc import Iterable

from service.errors import PlumblineError

# --- what was asked for is not there -------------------------------------------------------------------------


class UnknownProduct(PlumblineError):
    slug = "unknown-product"
    title = "Unknown product"
    status = 404

    def __init__(self, product: str, known: Iterable[str]) -> None:
        names = sorted(known)
        offer = f"Known products: {', '.join(names)}." if names else "The model repository holds no product."
        super().__init__(f"There is no product {product!r}. {offer}", product=product, known=names)


class ProductNotReady(PlumblineError):
    slug = "product-not-ready"
    title = "Product is not ready"
    status = 503

    def __init__(self, product: str, reason: str, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"Product {product!r} cannot be inspected now: {reason}",
            product=product,
            retry_after=retry_after_s,
        )


class UnknownBundle(PlumblineError):
    slug = "unknown-bundle"
    title = "Unknown bundle"
    status = 404

    def __init__(self, product: str, version: str, known: Iterable[str]) -> None:
        versions = list(known)
        offer = f"It has: {', '.join(versions)}." if versions else "It has none."
        super().__init__(
            f"The model repository has no bundle {version!r} of product {product!r}. {offer}",
            product=product,
            version=version,
            known=versions,
        )


class ChangeUnderWay(PlumblineError):
    slug = "bundle-change-under-way"
    title = "Another change of the product's bundles is under way"
    status = 409

    def __init__(self, product: str) -> None:
        super().__init__(
            f"Bundles of {product!r} are being loaded or changed by somebody else at this moment; one change goes at a "
            f"time. Look at GET /v1/products/{product}/bundles, decide again, and send the change again. Nothing was "
            "changed.",
            product=product,
        )


class NothingToRollBackTo(PlumblineError):
    slug = "nothing-to-roll-back-to"
    title = "No bundle was active before"
    status = 409

    def __init__(self, product: str) -> None:
        super().__init__(
            f"No other bundle of {product!r} was active before the present one, or everything before it was rolled "
            "back, so there is nothing to return to. "
            f"GET /v1/products/{product}/bundles lists what can be activated. Nothing was changed.",
            product=product,
        )


class ShadowRefused(PlumblineError):
    slug = "shadow-refused"
    title = "Bundle cannot be the shadow"
    status = 409

    def __init__(self, product: str, reason: str) -> None:
        super().__init__(f"{reason} Nothing was changed.", product=product)


class ReplayBusy(PlumblineError):
    slug = "replay-busy"
    title = "Another verdict is being replayed"
    status = 503

    def __init__(self, retry_after_s: float = 2.0) -> None:
        super().__init__(
            "Another verdict is being replayed; one goes at a time, because each needs a bundle of its own in memory. "
            f"Ask again after {retry_after_s:g} s, or run `plumbline replay` for many.",
            retry_after=retry_after_s,
        )
