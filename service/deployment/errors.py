"""Errors of activating, comparing and replaying bundles."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path

from service.bundle.manifest import PRODUCT_NAME
from service.errors import PlumblineError

_SIMILAR = 0.7  # ratio of difflib: two letters of seven may differ
# The error is made on the event loop, and comparing thousands of names takes tenths of a second.
_MAX_COMPARED = 300


class UnknownProduct(PlumblineError):
    """The model repository or the bundle store has no such product.

    `known` lists the products that exist, `similar` those whose names resemble the given one; it is empty if there are
    more than 300 products. A new product is created by its first bundle: `POST /v1/products/{product}/bundles`, or a
    folder in the model repository and a restart.
    """

    slug = "unknown-product"
    title = "Unknown product"
    status = 404

    def __init__(self, product: str, known: Iterable[str], models: Path | None, remedy: str = "") -> None:
        """Create the error.

        Args:
            product: The product.
            known: The products that exist.
            models: The model repository; None if the bundles are in the bundle store.
            remedy: What to do, as a sentence; empty for a general advice.
        """
        self._about = (product, models, remedy)
        if not remedy and models is not None and PRODUCT_NAME.fullmatch(product) and (models / product).is_dir():
            # The repository is read at the start, and `plumbline-train fit` may have written into it since.
            remedy = (
                f"The folder {product!r} in it has no bundle that was read: if it was added after the service started, "
                "restart the service."
            )
        names = sorted(known)
        similar = get_close_matches(product, names, n=3, cutoff=_SIMILAR) if len(names) <= _MAX_COMPARED else []
        offer = f"Known products: {', '.join(names)}." if names else "It contains no product."
        if similar:
            offer = f"Did you mean {' or '.join(map(repr, similar))}? {offer}"
        if models is not None and not models.is_dir():
            offer = "The folder does not exist."
        place = "the bundle store" if models is None else f"the model repository {models}"
        super().__init__(
            f"There is no product {product!r} in {place}. {offer} {remedy}".rstrip(),
            product=product,
            known=names,
            similar=similar,
        )

    def visible_to(self, products: Collection[str] | None) -> PlumblineError:
        """Return the error without the names of the products that a restricted client may not use."""
        if products is None:
            return self
        product, models, remedy = self._about
        known = [name for name in self.extensions["known"] if name in products]
        error = UnknownProduct(product, known, models, remedy)
        if not known:
            error.detail = f"There is no product {product!r}, and no other product that the API key permits. {remedy}"
            error.detail = error.detail.rstrip()
        return error


class ProductNotReady(PlumblineError):
    """The product exists, but none of its bundles is active.

    Its bundle is being loaded or is broken, or no bundle was activated. `/health/ready` states the reason.
    `retry_after` is present only while a bundle is being loaded. A broken bundle has to be replaced, so waiting does
    not help.
    """

    slug = "product-not-ready"
    title = "Product is not ready"
    status = 503

    def __init__(self, product: str, reason: str, retry_after_s: float | None = 5.0) -> None:
        waiting = {} if retry_after_s is None else {"retry_after": retry_after_s}
        super().__init__(f"Product {product!r} cannot be inspected now: {reason}", product=product, **waiting)


class UnknownBundle(PlumblineError):
    """The product has no such bundle.

    `known` lists the versions that exist; `GET /v1/products/{product}/bundles` describes them.
    """

    slug = "unknown-bundle"
    title = "Unknown bundle"
    status = 404

    def __init__(self, folder: Path, version: str, known: Iterable[str]) -> None:
        product, versions = folder.name, list(known)
        offer = f"Its bundles are: {', '.join(versions)}." if versions else "The product has no bundles."
        super().__init__(
            f"There is no bundle {version!r} of product {product!r} in {folder}. {offer}",
            product=product,
            version=version,
            known=versions,
        )


class UploadsBusy(PlumblineError):
    """As many bundles as allowed are being uploaded.

    Send the bundle again after `retry_after` seconds. `PLUMBLINE_MAX_UPLOADS` sets the limit.
    """

    slug = "uploads-busy"
    title = "Too many uploads of bundles"
    status = 503

    def __init__(self, limit: int, retry_after_s: float = 10.0) -> None:
        super().__init__(
            f"{limit} bundles are being uploaded, which is the limit (PLUMBLINE_MAX_UPLOADS). Send the bundle again "
            f"after {retry_after_s:g} s.",
            limit=limit,
            retry_after=retry_after_s,
        )


class ChangeUnderWay(PlumblineError):
    """Another change of the product's bundles is in progress.

    The bundles of a product are changed one change at a time. Nothing was changed. Wait for the other change, then
    decide again.
    """

    slug = "bundle-change-under-way"
    title = "Another change of the product's bundles is under way"
    status = 409

    def __init__(self, product: str) -> None:
        super().__init__(
            f"Another change of the bundles of {product!r} is in progress, and only one is allowed at a time. Nothing "
            f"was changed. Check GET /v1/products/{product}/bundles and send the change again if it is still needed.",
            product=product,
        )


class NothingToRollBackTo(PlumblineError):
    """No other bundle was active before the current one.

    The active bundle is the first one, or every earlier bundle was already rolled back. Nothing was changed. Activate a
    bundle by its version.
    """

    slug = "nothing-to-roll-back-to"
    title = "No bundle was active before"
    status = 409

    def __init__(self, product: str) -> None:
        super().__init__(
            f"There is no earlier bundle of {product!r} to return to: none was active before the current one, or all "
            f"earlier ones were rolled back. Nothing was changed. GET /v1/products/{product}/bundles lists the bundles "
            "that can be activated.",
            product=product,
        )


class ShadowRefused(PlumblineError):
    """The bundle cannot be deployed as a shadow, or there is no shadow.

    The bundle is the active one, no bundle is active, or there is no shadow to stop. Nothing was changed. Name another
    bundle of the same product.
    """

    slug = "shadow-refused"
    title = "Bundle cannot be the shadow"
    status = 409

    def __init__(self, product: str, reason: str) -> None:
        super().__init__(f"{reason} Nothing was changed.", product=product)


class ShadowNotLoaded(PlumblineError):
    """The bundle is not the shadow of the product now, so it cannot judge an image.

    The map of a shadow bundle is not stored. Its heatmap is drawn on request while the bundle runs as the shadow. Start
    the shadow deployment again to see it.
    """

    slug = "shadow-not-loaded"
    title = "Shadow bundle is not loaded"
    status = 409

    def __init__(self, product: str, version: str | None, loaded: str | None) -> None:
        which = "A shadow bundle" if version is None else f"Bundle {version}"
        now = "no bundle is" if loaded is None else f"bundle {loaded} is"
        super().__init__(
            f"{which} is needed to draw the heatmap, but {now} the shadow of {product!r} now. Start the shadow "
            "deployment of the bundle to draw its heatmaps.",
            product=product,
            loaded=loaded,
        )


class ReplayBusy(PlumblineError):
    """Another verdict is being replayed.

    The service replays one verdict at a time, because each replay needs a bundle of its own in memory. Send the request
    again after `retry_after` seconds; to replay many inspections, run `plumbline replay`.
    """

    slug = "replay-busy"
    title = "Another verdict is being replayed"
    status = 503

    def __init__(self, retry_after_s: float = 2.0) -> None:
        super().__init__(
            "Another verdict is being replayed. Only one is replayed at a time, because each replay loads a bundle. "
            f"Send the request again after {retry_after_s:g} s, or use `plumbline replay` for many inspections.",
            retry_after=retry_after_s,
        )


class VersionNotActive(PlumblineError):
    """The requested version of a model is not the active bundle of the product.

    Other bundles do not inspect images. Request the active version, or leave the version out; where the path always has
    a version, request `active`.
    """

    slug = "version-not-active"
    title = "Version is not active"
    status = 404

    def __init__(
        self, product: str, version: str, active: str | None, advice: str = "Request the active version, or none."
    ) -> None:
        offer = "No bundle is active." if active is None else f"The active version is {active}."
        super().__init__(
            f"Version {version!r} of {product!r} is not the active bundle. {offer} {advice}",
            product=product,
            version=version,
            active=active,
        )
