"""The export of labelled images as a zip archive that is made while it is sent."""

from __future__ import annotations

import csv
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from service.deployment.stored_image import decode_stored
from service.errors import InvalidRequest
from service.inspection import heatmap
from service.inspection.decoding.formats import PNG, SUFFIXES
from service.inspection.decoding.pixel_formats import RAW_MEDIA_TYPE
from service.reviews.errors import ReviewsBusy
from service.reviews.labels import CombinedLabel
from service.reviews.layout import GOOD, folder_of_kind, image_path, is_test_image
from service.spreadsheets import guard_formulas
from service.store.errors import ArtefactGone, StoredImageUnreadable
from service.store.records import InspectionRecord
from service.store.review_queries import count_labelled, labelled_inspections
from service.store.store import Store

MAX_IMAGES = 50_000
MAX_EXPORTS = 2
MANIFEST = "manifest.csv"
_PIECE_BYTES = 64 * 2**10
_COLUMNS = (
    "file", "problem", "inspection_id", "label", "kind", "decision", "score", "bundle_version", "created_at",
    "captured_at", "part_id", "station", "lot", "image_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class ExportTask:
    """What to export.

    Attributes:
        product: The product.
        since: Inclusive start of the period; None for no start.
        until: Exclusive end of the period; None for no end.
        test_share: Share of the good images that become test images, 0 to 1.
        stations: Only inspections at these stations; None for all.
    """

    product: str
    since: datetime | None
    until: datetime | None
    test_share: float
    stations: tuple[str, ...] | None = None


class Exporter:
    """Makes exports, a limited number at the same time.

    Args:
        store: Stored inspections, their reviews and images.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots = threading.BoundedSemaphore(MAX_EXPORTS)

    def open(self, task: ExportTask) -> Export:
        """Begin an export. The caller must close it.

        Raises:
            InvalidRequest: No inspection in the period is labelled good or defect, or too many are.
            ReviewsBusy: Too many exports are running.
            StoreUnavailable: The database cannot be read.
        """
        count = count_labelled(self._store.engine, task.product, task.since, task.until, stations=task.stations)
        if not count:
            raise InvalidRequest(
                f"No inspection of {task.product!r} in the period has the label good or defect, so there is nothing to "
                "export. Review inspections first, or choose another period."
            )
        if count > MAX_IMAGES:
            raise InvalidRequest(
                f"{count} inspections of {task.product!r} are labelled, more than the {MAX_IMAGES} that one export may "
                "contain. Export shorter periods with `since` and `until`."
            )
        if not self._slots.acquire(blocking=False):
            raise ReviewsBusy("exports of labelled images", MAX_EXPORTS)
        return Export(self._store, task, self._slots)


class Export:
    """A running export.

    Args:
        store: Stored inspections, their reviews and images.
        task: What to export.
        slot: Released when the export is closed.
    """

    def __init__(self, store: Store, task: ExportTask, slot: threading.Semaphore) -> None:
        self._store = store
        self._task = task
        self._slot: threading.Semaphore | None = slot

    def pieces(self) -> Iterator[bytes]:
        """Iterate over the bytes of the archive. Only one image is in memory at a time.

        Raises:
            StoreUnavailable: The database or an image cannot be read.
        """
        sink = _Sink()
        manifest = io.StringIO(newline="")
        table = csv.DictWriter(manifest, _COLUMNS)
        table.writeheader()
        task = self._task
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            for record, label in labelled_inspections(
                self._store.engine, task.product, task.since, task.until, stations=task.stations
            ):
                path, problem = "", ""
                try:
                    data, suffix = self._image(record)
                    path = image_path(self._folder(record, label), record.id, _taken_at(record), suffix)
                    archive.writestr(_entry(path, record.created_at), data)
                except ArtefactGone:
                    problem = "image no longer stored"
                except StoredImageUnreadable as error:
                    problem = error.detail
                table.writerow(_row(record, label, path, problem))
                yield from sink.take()
            info = _entry(MANIFEST, None)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, manifest.getvalue())
        yield from sink.take()

    def close(self) -> None:
        """End the export. It can be called several times."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _folder(self, record: InspectionRecord, label: CombinedLabel) -> str:
        if label.label != GOOD:
            return f"test/{folder_of_kind(label.kind)}"
        return f"test/{GOOD}" if is_test_image(record.image_sha256, self._task.test_share) else f"train/{GOOD}"

    def _image(self, record: InspectionRecord) -> tuple[bytes, str]:
        """Return the encoded image and its suffix. A camera buffer is converted to PNG.

        Raises:
            ArtefactGone: It is no longer stored.
            StoredImageUnreadable: A camera buffer cannot be converted.
            StoreUnavailable: It cannot be read.
        """
        data = self._store.files.image_of(record)
        if record.image_media_type != RAW_MEDIA_TYPE:
            return data, SUFFIXES[record.image_media_type]
        return heatmap.encode(decode_stored(record, data), PNG), SUFFIXES[PNG]


class _Sink:
    """A file that only accepts writes, for `zipfile`: what was written is taken out of it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing, as nothing is buffered elsewhere."""

    def close(self) -> None:
        """Do nothing; `zipfile` leaves a file that it was given open."""

    def take(self) -> Iterator[bytes]:
        """Return and remove what was written, in pieces of limited size."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            for start in range(0, len(piece), _PIECE_BYTES):
                yield piece[start : start + _PIECE_BYTES]


def _entry(path: str, moment: datetime | None) -> zipfile.ZipInfo:
    # Zip files cannot express times before 1980.
    is_valid = moment is not None and moment.year >= 1980
    entry = zipfile.ZipInfo(path, moment.timetuple()[:6] if moment is not None and is_valid else (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    return entry


def _taken_at(record: InspectionRecord) -> datetime:
    return record.captured_at or record.created_at


def _row(record: InspectionRecord, label: CombinedLabel, path: str, problem: str) -> dict[str, str]:
    return {
        "file": path,
        "problem": problem,
        "inspection_id": record.id,
        "label": label.label,
        "kind": guard_formulas(label.kind or ""),
        "decision": record.decision,
        "score": "" if record.score is None else repr(record.score),
        "bundle_version": record.bundle_version,
        "created_at": record.created_at.isoformat(),
        "captured_at": "" if record.captured_at is None else record.captured_at.isoformat(),
        "part_id": guard_formulas(record.part_id or ""),
        "station": guard_formulas(record.station or ""),
        "lot": guard_formulas(record.lot or ""),
        "image_sha256": record.image_sha256,
    }
