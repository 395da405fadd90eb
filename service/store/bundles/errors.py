"""Errors of the bundle store."""

from __future__ import annotations

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
