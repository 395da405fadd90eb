"""Failures of uploading, choosing and comparing bundles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from service.errors import PlumblineError


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


class BundleArchiveInvalid(PlumblineError):
    """What was uploaded is no bundle in a zip file. Nothing of it was written."""

    slug = "bundle-archive-invalid"
    title = "Not a bundle's archive"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The archive is refused: {reason} Expected is a zip file that holds manifest.json, model.onnx, "
            "calibration.json and golden/NN.npz at its top and nothing else, as `plumbline bundle export` writes it. "
            "Nothing was kept."
        )


class BundleTooLarge(PlumblineError):
    slug = "bundle-too-large"
    title = "Bundle is too large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The bundle is larger than {limit_bytes} bytes, as an archive or unpacked. Nothing was kept. If it really "
            "is that large, raise PLUMBLINE_MAX_BUNDLE_BYTES.",
            limit_bytes=limit_bytes,
        )


class RepositoryNotWritable(PlumblineError):
    slug = "repository-not-writable"
    title = "Model repository cannot be written"
    status = 507

    def __init__(self, models: Path, reason: str | None) -> None:
        super().__init__(
            f"The model repository {models} cannot be written ({reason}), so no bundle can be uploaded; those that are "
            "there are served as before. Make the folder writable for the service's user or free space, or copy the "
            "bundle's folder there by hand."
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
