"""What other parts of the service add to inspections, and what they do after one was stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from service.serving.image import Image
from service.serving.inspection_log import log_inspection
from service.store.completed import Completed, Listener, PartIds

log = structlog.get_logger(__name__)


class InspectionHooks:
    """Completes the metadata of images and reports stored inspections.

    Args:
        listeners: Receive every stored inspection, in this order.
        part_ids: Announces part ids of images that have none.
    """

    def __init__(self, listeners: Sequence[Listener] = (), part_ids: PartIds | None = None) -> None:
        self._listeners = tuple(listeners)
        self._part_ids = part_ids

    def complete(self, product: str, image: Image) -> Image:
        """Return the image with the part id that was announced for it, if it has none.

        Args:
            product: Name of the product.
            image: The image.
        """
        if self._part_ids is None or image.part.part_id is not None:
            return image
        part_id = self._part_ids(product, image.part.station)
        return image if part_id is None else replace(image, part=replace(image.part, part_id=part_id))

    def report(self, completed: Completed) -> None:
        """Log a stored inspection and pass it to the listeners. An error of a listener does not affect the verdict."""
        log_inspection(completed.record, completed.duration_s)
        for listener in self._listeners:
            try:
                listener(completed)
            except Exception:  # the inspection is stored; its response must be sent
                log.exception("stored inspection not reported", inspection=completed.record.id)
