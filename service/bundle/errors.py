"""Errors of bundles and of the model repository on disk."""

from __future__ import annotations

from pathlib import Path

from service.errors import PlumblineError


class BundleInvalid(PlumblineError):
    """The bundle is not served. Base class of every reason for that.

    A product keeps serving the bundle that was active before. The message names the reason and the remedy.
    """

    slug = "bundle-invalid"
    title = "Bundle is not valid"
    status = 422

    def __init__(self, path: Path, reason: str, remedy: str = "Export the bundle again.") -> None:
        super().__init__(f"The bundle {path} is not served: {reason} {remedy}", bundle=path.name)
        self._reason, self._remedy = reason, remedy

    def set_refused(self) -> None:
        """Report that the bundle was not installed, instead of the folder in which it was verified."""
        version = self.extensions["bundle"]
        self.detail = f"The bundle {version} is refused: {self._reason} {self._remedy} Nothing was stored."
        self.args = (self.detail,)


class BundleIntegrity(BundleInvalid):
    """A file of the bundle is missing, was added, or differs from its hash in the manifest.

    Copy the bundle again from where it was trained. A bundle is never edited: a change makes a new bundle.
    """

    slug = "bundle-integrity"
    title = "Bundle was changed or is incomplete"

    def __init__(self, path: Path, reason: str, remedy: str | None = None) -> None:
        default = "Copy the bundle again from where it was trained; a bundle is never edited."
        super().__init__(path, reason, remedy or default)


class BundleSchema(BundleInvalid):
    """The schema of the manifest, the calibration card, a golden sample or the graph is not supported by this version.

    Export the bundle with a training package of the same major version as the service.
    """

    slug = "bundle-schema"
    title = "Unsupported bundle schema"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, "Export it with a training package of the same major version as the service.")


class BundleOfOtherProduct(BundleInvalid):
    """The bundle was trained for a product other than the one it was installed for.

    Its scores mean nothing for other parts. Install it for its own product, or train a bundle for this one.
    """

    slug = "bundle-of-other-product"
    title = "Bundle was made for another product"

    def __init__(self, path: Path, made_for: str, product: str) -> None:
        super().__init__(
            path,
            f"it was made for product {made_for!r}, not for {product!r}.",
            f"Install it for {made_for!r}, or train a bundle for {product!r}.",
        )


class ExternalData(BundleInvalid):
    """The graph refers to data outside the model file, which could read any file on the host.

    Export the model as one self-contained file.
    """

    slug = "bundle-external-data"
    title = "Bundle's graph uses external data"

    def __init__(self, path: Path, tensor: str) -> None:
        super().__init__(
            path,
            f"tensor {tensor!r} of its graph is stored outside the model file.",
            "Export it as one self-contained file.",
        )


class ParityFailure(BundleInvalid):
    """The graph's results on this machine's execution provider differ from those that training recorded.

    The golden samples are run when a bundle is loaded, and the results must agree within the tolerance in the manifest.
    Use the provider that the bundle was calibrated on, or export the bundle on this machine.
    """

    slug = "parity-failure"
    title = "Bundle fails its parity self-test"

    def __init__(self, path: Path, provider: str, difference: float, tolerance: float) -> None:
        super().__init__(
            path,
            f"on provider {provider!r} the results for the golden samples differ by {difference:.2e} (relative) from "
            f"those that training recorded; at most {tolerance:.0e} is allowed.",
            "Serve it on the provider that it was calibrated on, or export it again on this machine.",
        )


class SelfTestFailed(BundleInvalid):
    """The bundle's self-test exceeded its limits on time or memory, or ended abnormally.

    The self-test runs the golden samples in a process of its own before the service opens the graph. A bundle of the
    training package takes seconds. If yours is large or the machine slow, raise `PLUMBLINE_SELF_TEST_TIMEOUT_S` or
    `PLUMBLINE_SELF_TEST_MEMORY_BYTES`; otherwise export the bundle again.
    """

    slug = "self-test-failed"
    title = "Bundle exceeds the limits of its self-test"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            path,
            f"its self-test was ended: {reason}",
            "Raise the limit if the bundle is large or the machine slow, otherwise export the bundle again.",
        )


class BundleArchiveInvalid(PlumblineError):
    """The uploaded data is not a bundle in a zip file. Nothing of it was stored.

    `plumbline bundle export` writes archives in the expected form.
    """

    slug = "bundle-archive-invalid"
    title = "Not a bundle archive"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The archive is refused: {reason} Expected a zip file with only manifest.json, model.onnx, "
            "calibration.json and golden/NN.npz, optionally with images.json and origins.npz, at its top level, as "
            "`plumbline bundle export` writes it. Nothing was stored."
        )


class BundleTooLarge(PlumblineError):
    """The bundle is larger than the limit, as an archive or unpacked. Nothing of it was stored.

    Raise `PLUMBLINE_MAX_BUNDLE_BYTES` if the bundle really is that large.
    """

    slug = "bundle-too-large"
    title = "Bundle is too large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The bundle is larger than {limit_bytes} bytes, as an archive or unpacked. Nothing was stored. If it is "
            "meant to be that large, raise PLUMBLINE_MAX_BUNDLE_BYTES.",
            limit_bytes=limit_bytes,
        )


class NotEnoughSpace(PlumblineError):
    """The disk of the model repository has too little free space for the bundle. Nothing of it was stored.

    Installed bundles are served as before. Free some space, or lower `PLUMBLINE_MIN_FREE_BYTES`.
    """

    slug = "not-enough-space"
    title = "Not enough disk space for the bundle"
    status = 507

    def __init__(self, models: Path, needed_bytes: int, free_bytes: int, reserve_bytes: int) -> None:
        super().__init__(
            f"The bundle may take {needed_bytes} bytes, but the disk of the model repository {models} has only "
            f"{max(0, free_bytes)} bytes free, of which {reserve_bytes} are kept free for inspections "
            "(PLUMBLINE_MIN_FREE_BYTES). Nothing was stored. Free some space and upload it again.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


class RepositoryNotWritable(PlumblineError):
    """The model repository is on a full or read-only disk, so no bundle can be uploaded.

    Installed bundles are served as before. Make the folder writable for the service's user or free some space.
    """

    slug = "repository-not-writable"
    title = "Model repository cannot be written"
    status = 507

    def __init__(self, models: Path, reason: str | None) -> None:
        super().__init__(
            f"The model repository {models} cannot be written ({reason}), so no bundle can be uploaded. Installed "
            "bundles are served as before. Make the folder writable for the service's user, free some space, or copy "
            "the bundle's folder there by hand."
        )
