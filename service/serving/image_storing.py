"""Store the image of an inspection while it is decoded and judged.

A graph uses all cores, and decoding uses one. Therefore the image is hashed and written while it is decoded, on another
thread. An image that cannot be decoded after all is deleted again. Data whose header is not that of an acceptable image
is never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from uuid import UUID

from service.inspection.inspector import hash_image
from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.ids import new_id
from service.store.inspections import get_inspection
from service.store.store import Store


class StoringImage:
    """The image of one inspection, on its way to the store. Use `store_image` to make one.

    Args:
        store: Receives the image.
        disk: Threads that write images.
        data: The encoded image or the camera buffer.
    """

    def __init__(self, store: Store, disk: ThreadPoolExecutor, data: bytes) -> None:
        self._store = store
        self._disk = disk
        self._data = data
        self._begun: tuple[UUID, str, Future[None]] | None = None
        self._digest: Future[str] = Future()

    @property
    def id(self) -> UUID:
        """Return the id of the inspection. It exists from `begin` on."""
        assert self._begun is not None
        return self._begun[0]

    def require_possible(self) -> None:
        """Check that a verdict can be stored, as far as it is known without writing.

        Raises:
            StoreUnavailable: It cannot, so the image should not be decoded.
        """
        self._store.require_writable()

    def begin(self, media_type: str) -> None:
        """Begin to hash and write the image on another thread.

        Args:
            media_type: Media type of the image.
        """
        inspection_id = new_id()
        self._begun = (inspection_id, media_type, self._disk.submit(self._write, inspection_id, media_type))

    def sha256(self, data: bytes) -> str:
        """Return the SHA-256 of the image, hex. If no thread was free to compute it, it is computed here."""
        return hash_image(data) if self._digest.cancel() else self._digest.result()

    def finish(self) -> None:
        """Wait until the image is on disk.

        Raises:
            StoreUnavailable: It could not be written.
        """
        assert self._begun is not None
        self._begun[2].result()

    def discard(self, *, may_be_recorded: bool) -> None:
        """Delete the files of an inspection that failed.

        Args:
            may_be_recorded: Whether its record may have been committed nevertheless; then the database is asked. If it
                does not respond at all, the files stay.
        """
        if self._begun is None:
            return
        inspection_id, media_type, writing = self._begun
        wait([writing])
        try:
            if may_be_recorded:
                get_inspection(self._store.engine, inspection_id)
                return
        except UnknownInspection:
            pass
        except StoreUnavailable:
            return
        self._store.files.remove(inspection_id, media_type)

    def _write(self, inspection_id: UUID, media_type: str) -> None:
        if self._digest.set_running_or_notify_cancel():
            self._digest.set_result(hash_image(self._data))
        self._store.files.write_image(inspection_id, media_type, self._data).sync()


@contextmanager
def store_image(store: Store, disk: ThreadPoolExecutor, data: bytes) -> Iterator[StoringImage]:
    """Yield an image to store, and delete the files of the inspection if the block fails.

    Clients retry, so a failed attempt must not leave orphaned files.

    Args:
        store: Receives the image.
        disk: Threads that write images.
        data: The encoded image or the camera buffer.
    """
    storing = StoringImage(store, disk, data)
    try:
        yield storing
    except StoreUnavailable:
        storing.discard(may_be_recorded=True)
        raise
    except BaseException:
        storing.discard(may_be_recorded=False)
        raise
