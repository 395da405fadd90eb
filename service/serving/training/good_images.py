"""Good images of a job that is being made: check them, write their files, and delete these if the job is not stored."""

from __future__ import annotations

import hashlib
from datetime import UTC
from pathlib import PurePosixPath
from uuid import UUID

import structlog

from service.deployment.stored_image import DECODING_ERRORS, decode_stored
from service.errors import InvalidRequest
from service.inspection import heatmap
from service.inspection.capture_groups import is_defect_folder
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.decoding.formats import PNG
from service.schemas.training import MIN_QUICK_IMAGES
from service.serving.batch import Frame
from service.serving.errors import TrainingStorageFull
from service.serving.proposer import with_name
from service.store.errors import StoreUnavailable
from service.store.ids import new_id
from service.store.records import InspectionRecord
from service.store.store import Store
from service.store.training.records import TrainingImage

log = structlog.get_logger(__name__)
MAX_NAME = 256


class GoodImages:
    """The images of one new job. All methods block.

    Args:
        store: Stores the files, and has the images of inspections.
        limits: Limits of one image.
        budget_bytes: Most bytes of the images of all jobs.
        stored_bytes: Bytes of the images of other jobs.

    Attributes:
        job_id: Id of the job.
        images: The images so far.
        duplicates: Images that were left out because they are byte-identical to another one.
    """

    def __init__(self, store: Store, limits: ImageLimits, budget_bytes: int, stored_bytes: int) -> None:
        self.job_id: UUID = new_id()
        self.images: list[TrainingImage] = []
        self.duplicates = 0
        self._store = store
        self._limits = limits
        self._budget_bytes = budget_bytes
        self._stored_bytes = stored_bytes
        self._digests: set[str] = set()
        self._is_kept = False

    def add_sent(self, frame: Frame, number: int) -> None:
        """Check and write an image that was sent.

        Args:
            frame: The image.
            number: Number of the image in the request; names an image without a label.

        Raises:
            InvalidRequest: The image cannot be decoded, or its folder's name indicates defective parts; the message
                names it.
            TrainingStorageFull, StoreUnavailable: It cannot be stored.
        """
        name = frame.label or str(number)
        folders = PurePosixPath(name.replace("\\", "/")).parts[:-1]  # some programs on Windows write \ into archives
        if (folder := next((part for part in folders if is_defect_folder(part)), None)) is not None:
            raise InvalidRequest(
                f"{name}: the name of the folder {folder!r} indicates defective parts. Send images of good parts only, "
                "or rename the folder."
            )
        if frame.error is not None:
            raise with_name(name, frame.error)
        data = frame.image.data
        try:
            # As training and the service decode it, completely: a damaged image must not fail the job later.
            media_type = decoder.read_media_type(data)
            decoder.decode(data, self._limits)
        except DECODING_ERRORS as error:
            raise with_name(name, error) from error
        self._add(name, media_type, data)

    def add_stored(self, record: InspectionRecord) -> None:
        """Copy the image of a stored inspection, so that retention and the job do not affect each other.

        An image whose bytes alone do not define its pixels, such as a camera buffer, is stored as the PNG of what was
        judged. The name begins with the day, which is the capture group.

        Args:
            record: The inspection.

        Raises:
            ArtefactGone: Its image is no longer stored.
            StoredImageUnreadable: It cannot be decoded.
            TrainingStorageFull, StoreUnavailable: It cannot be stored.
        """
        data, media_type = self._store.files.image_of(record), record.image_media_type
        pixels = decode_stored(record, data)
        if record.image_pixels is not None:
            data, media_type = heatmap.encode(pixels, PNG), PNG
        day = (record.captured_at or record.created_at).astimezone(UTC)
        self._add(f"{day:%Y-%m-%d}/{record.id}", media_type, data)

    def require_enough(self) -> None:
        """Check the number of images.

        Raises:
            InvalidRequest: There are too few.
        """
        if len(self.images) < MIN_QUICK_IMAGES:
            raise InvalidRequest(
                f"{len(self.images)} different good images were given, and at least {MIN_QUICK_IMAGES} are needed. "
                "Take more images of good parts, under the conditions of the line, and send all of them."
            )

    def keep(self) -> None:
        """Take note that the job is stored: its files stay, even if the request fails afterwards."""
        self._is_kept = True

    def discard(self) -> None:
        """Delete the files, unless the job is stored. Errors are only logged: a file without a job only costs space."""
        if self._is_kept:
            return
        try:
            types = {image.number: image.media_type for image in self.images}
            self._store.files.remove_training_images(self.job_id, types)
        except StoreUnavailable as error:
            log.warning("images of a refused training job not removed", job=str(self.job_id), reason=error.reason)

    def _add(self, name: str, media_type: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        if digest in self._digests:
            self.duplicates += 1
            return
        if self._stored_bytes + len(data) > self._budget_bytes:
            raise TrainingStorageFull(self._budget_bytes, self._stored_bytes)
        image = TrainingImage(len(self.images) + 1, name[:MAX_NAME], media_type, len(data), digest)
        self._store.files.write_training_image(self.job_id, image.number, media_type, data).sync()
        self.images.append(image)
        self._digests.add(digest)
        self._stored_bytes += len(data)
