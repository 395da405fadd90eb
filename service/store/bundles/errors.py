"""Errors of the bundle store."""

from __future__ import annotations

from datetime import UTC, datetime

from service.errors import PlumblineError
from service.store.errors import BundleStoreUnavailable

UPLOAD_AGAIN = "Upload the bundle again (`plumbline bundle import-repository`), which repairs the store."


class BundleDamaged(BundleStoreUnavailable):
    """A file in the bundle store is missing, or not what the manifest of its bundle lists.

    Args:
        digest: Digest of the bundle.
        file: Name of the file in the bundle.
        how: What is wrong with it.
    """

    def __init__(self, digest: str, file: str, how: str) -> None:
        super().__init__(
            f"{file} of bundle {digest[:12]} in it is not the file that the manifest lists ({how})", UPLOAD_AGAIN
        )
        self.digest = digest
        self.file = file
        self.how = how


class BundleRemoved(PlumblineError):
    """The bundle was removed from the bundle store, because nothing needed it any more.

    `plumbline bundle prune --remove` removes bundles that are not deployed and that judged no stored inspection.
    Nothing was changed. To use the bundle again, upload it from a copy: an archive, a backup, or the machine that
    trained it.
    """

    slug = "bundle-removed"
    title = "Bundle was removed"
    status = 410

    def __init__(self, product: str, version: str, removed_at: datetime, removed_by: str) -> None:
        super().__init__(
            f"Bundle {version!r} of product {product!r} was removed from the bundle store at "
            f"{removed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by {removed_by} (plumbline bundle prune). To use it "
            "again, upload it from a copy.",
            product=product,
            version=version,
            removed_at=removed_at.astimezone(UTC).isoformat(),
        )


class BundleBeingRemoved(BundleStoreUnavailable):
    """The files of a bundle that is to be stored are being removed from the bundle store."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"the files of bundle {version} in it are being removed (plumbline bundle prune)",
            "Store the bundle again after a minute. If the removal was interrupted, first complete it with `plumbline "
            "bundle prune --remove`.",
        )
