"""Failures of bundles and of the model repository on disk."""

from __future__ import annotations

from pathlib import Path

from service.errors import PlumblineError

# --- bundles and execution providers -------------------------------------------------------------------------


class BundleInvalid(PlumblineError):
    """A bundle that is not served. Base of every reason for that."""

    slug = "bundle-invalid"
    title = "Bundle is not valid"
    status = 422

    def __init__(self, path: Path, reason: str, remedy: str = "Export the bundle again.") -> None:
        super().__init__(f"The bundle {path} is not served: {reason} {remedy}", bundle=path.name)
        self._reason, self._remedy = reason, remedy

    def found_at(self, path: Path) -> None:
        """Say where the bundle was meant to lie instead of where it was examined."""
        BundleInvalid.__init__(self, path, self._reason, self._remedy)


class BundleIntegrity(BundleInvalid):
    """A file is missing, was added, or differs from what the manifest vouches for."""

    slug = "bundle-integrity"
    title = "Bundle was changed or is incomplete"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, "Copy it again from where it was trained; a bundle is never edited.")


class BundleSchema(BundleInvalid):
    """The manifest or the calibration card is not of a form this version reads."""

    slug = "bundle-schema"
    title = "Bundle has an unknown form"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, "Export it with a training package of the same major version as the service.")


class BundleOfOtherProduct(BundleInvalid):
    """It was trained on other parts; whatever it says about these would mean nothing."""

    slug = "bundle-of-other-product"
    title = "Bundle was made for another product"

    def __init__(self, path: Path, made_for: str, product: str) -> None:
        super().__init__(
            path,
            f"it was made for product {made_for!r}, not for {product!r}.",
            f"Put it under {made_for!r}, or train one for {product!r}.",
        )


class ExternalData(BundleInvalid):
    """The graph points at files outside itself: a way to read the host's disk, so it is refused."""

    slug = "bundle-external-data"
    title = "Bundle's graph uses external data"

    def __init__(self, path: Path, tensor: str) -> None:
        super().__init__(
            path,
            f"tensor {tensor!r} of its graph lies outside the model file.",
            "Export it as one self-contained file.",
        )


class ParityFailure(BundleInvalid):
    """On this machine's provider the graph does not compute what it computed at training."""

    slug = "parity-failure"
    title = "Bundle fails its parity self-test"

    def __init__(self, path: Path, provider: str, difference: float, tolerance: float) -> None:
        super().__init__(
            path,
            f"on provider {provider!r} the golden samples differ by {difference:.2e} (relative) from what training "
            f"recorded, {tolerance:.0e} is allowed.",
            "Serve it on the provider it was calibrated on, or export it again here.",
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
