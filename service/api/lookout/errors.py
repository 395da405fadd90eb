"""Errors of the endpoint that is compatible with Amazon Lookout for Vision."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import PlumblineError


class PartNotInspected(PlumblineError):
    """The quality check rejected the image, so the part is neither normal nor anomalous.

    `reasons` lists what is wrong with the image; the inspection is stored with the decision `invalid`. Correct the
    illumination, the lens or the camera, and send a new image.
    """

    slug = "part-not-inspected"
    title = "Image rejected by the quality check"
    status = 422

    def __init__(self, inspection_id: str, reasons: Sequence[str], details: Sequence[str]) -> None:
        super().__init__(
            f"The quality check rejected the image: {' '.join(details)} The part was not inspected. The image is "
            f"stored as inspection {inspection_id}.",
            inspection=inspection_id,
            reasons=list(reasons),
        )
