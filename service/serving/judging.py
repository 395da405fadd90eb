"""The steps of an inspection that decide: decode the image, run the graph, and judge. Nothing is stored here.

Images that are inspected and images that are only tried take the same steps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.deployment.lease import ActiveProduct
from service.deployment.reference_scores import ReferenceScores
from service.errors import DeadlineExceeded
from service.inspection.decoding import decoder
from service.inspection.records import Inspection, PreparedImage
from service.inspection.runtime.threads import cpu_quota
from service.serving.admission import Turn
from service.serving.drift.guarantees import Guarantees
from service.serving.image import Image
from service.serving.image_storing import StoringImage


class Judging:
    """Decodes and judges images. Decoding and deciding of all images together are limited to the CPU quota.

    Args:
        references: Scores that p-values are relative to.
        guarantees: Which guarantees are suspended.
        deadline_s: Seconds from the start of a turn after which an image is not inspected any more.
    """

    def __init__(self, references: ReferenceScores, guarantees: Guarantees, deadline_s: float) -> None:
        self._references = references
        self._guarantees = guarantees
        self._deadline_s = deadline_s
        self._cores = threading.BoundedSemaphore(cpu_quota())

    def read(
        self, active: ActiveProduct, image: Image, turn: Turn, storing: StoringImage | None = None
    ) -> PreparedImage:
        """Decode an image as the recipe in force states.

        Args:
            active: Bundle and recipe in force.
            image: The image.
            turn: The turn of the request.
            storing: Stores the image meanwhile; None if it is not stored.

        Raises:
            UnknownPixelFormat, PixelMismatch, InvalidRequest: What the client states does not fit the recipe.
            PlumblineError: The image cannot be used; see `Inspector.read`.
            DeadlineExceeded: Its turn was too long ago.
            StoreUnavailable: Nothing can be stored, so the image is not decoded.
        """
        rules = active.recipe.recipe.pixels.rules(image.buffer.layout(active.recipe.recipe))
        with self._core_before_deadline(turn):
            if storing is None:
                prepared = active.inspector.read(image.data, rules)
            else:
                storing.require_possible()
                header = decoder.check_header(image.data, active.inspector.options.limits, rules)
                storing.begin(header.media_type)
                prepared = active.inspector.read(image.data, rules, storing.sha256)
        # The batcher checks the deadline for its own queue only.
        self._check_deadline(turn)
        return prepared

    def reference(self, active: ActiveProduct) -> Sequence[float]:
        """Return the scores of good images that p-values of a product are relative to, ascending."""
        return self._references.scores(active.bundle, active.recipe.recipe)

    def is_suspended(self, active: ActiveProduct, station: str | None) -> bool:
        """Return whether the guarantee of the thresholds in force is suspended.

        Args:
            active: Bundle and recipe in force.
            station: Station of the image; None if it has none.
        """
        return self._guarantees.is_suspended(active.recipe, station)

    def judge(
        self, active: ActiveProduct, prepared: PreparedImage, rank: int, reference: Sequence[float]
    ) -> Inspection:
        """Run the graph on a decoded image and judge the result.

        Args:
            active: Bundle and recipe in force.
            prepared: The decoded image.
            rank: Images of a lower rank run first.
            reference: See `reference`.

        Raises:
            PlumblineError: See `Inspector.infer` and `Inspector.finish`.
        """
        result = active.inspector.infer(prepared, rank, on_this_thread=True)
        with self._cores:
            return active.inspector.finish(prepared, result, active.recipe.recipe.criteria, reference)

    @contextmanager
    def _core_before_deadline(self, turn: Turn) -> Iterator[None]:
        """Wait for a core until the deadline; an image that exceeded it is not decoded."""
        if not self._cores.acquire(timeout=max(0.0, turn.remaining_s(self._deadline_s))):
            raise DeadlineExceeded(self._deadline_s, 1.0)
        try:
            self._check_deadline(turn)
            yield
        finally:
            self._cores.release()

    def _check_deadline(self, turn: Turn) -> None:
        if turn.remaining_s(self._deadline_s) < 0:
            raise DeadlineExceeded(self._deadline_s, 1.0)
