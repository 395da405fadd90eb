"""Replay of verdicts: judge a stored image again with the bundle and the recipe of its inspection.

If both verdicts are computed on the CPU, they are bit-identical: the graph runs on as many copies of the image as its
batch contained. Tiles were run in batches of various sizes, and CUDA libraries may choose other algorithms, so there a
score may differ in its last digits. On another provider it may differ by the tolerance of the bundle's parity
certificate. The decision must be the same in all cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

from sqlalchemy import Engine

from service.bundle.errors import BundleIntegrity
from service.deployment.reference_scores import ReferenceScores
from service.deployment.rejudge import judge_again
from service.deployment.repository import BundleLoader
from service.deployment.sources.source import BundleSource
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.inspector import Inspector
from service.inspection.runtime.freed_memory import return_freed_memory
from service.store.errors import NotJudged
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections
from service.store.recipes import get_recipe
from service.store.records import InspectionRecord
from service.store.store import Store

# The batch size changes scores by about 3e-7 relative to the largest value (measured on the washer bundle's graph).
ROUNDING_TOLERANCE = 1e-5
_PAGE = 500
# A stored image was accepted once, so limits that were lowered since do not apply to it.
_NO_LIMITS = ImageLimits(max_bytes=2**31 - 1, max_pixels=2**30)


@dataclass(frozen=True)
class Verdict:
    """A verdict on an image, stored or replayed."""

    decision: str
    score: float
    p_value: float
    provider: str


@dataclass(frozen=True)
class Replay:
    """A stored verdict and its replay.

    Attributes:
        inspection_id: The inspection.
        stored: The stored verdict.
        replayed: The replayed verdict.
        score_difference: Absolute difference of the scores, relative to the stored score.
        tolerance: Largest accepted `score_difference`; 0 if both verdicts were computed on the CPU.
    """

    inspection_id: str
    stored: Verdict
    replayed: Verdict
    score_difference: float
    tolerance: float

    @property
    def outcome(self) -> Literal["same", "different"]:
        """Whether decision, score and, with a tolerance of 0, p-value agree."""
        is_same = self.stored.decision == self.replayed.decision and self.score_difference <= self.tolerance
        if self.tolerance == 0:
            is_same = is_same and self.stored.p_value == self.replayed.p_value
        return "same" if is_same else "different"

    @property
    def summary(self) -> str:
        """The comparison in one sentence."""
        stored, replayed = self.stored, self.replayed
        if self.outcome == "same" and self.score_difference == 0:
            return f"{stored.decision} with score {stored.score:.6g}, bit-identical."
        route = stored.provider if stored.provider == replayed.provider else f"{stored.provider} to {replayed.provider}"
        return (
            f"Stored: {stored.decision} with score {stored.score:.9g} and p-value {stored.p_value:.4g}. "
            f"Replayed: {replayed.decision} with score {replayed.score:.9g} and p-value {replayed.p_value:.4g}. "
            f"The scores differ by {self.score_difference:.1e}; the tolerance is {self.tolerance:.1g} ({route})."
        )


def newest_since(engine: Engine, product: str | None, since: datetime | None, limit: int) -> list[InspectionRecord]:
    """Return the newest inspections, grouped by bundle, so that a replay loads each bundle once.

    Args:
        engine: The database.
        product: The product; None for all products.
        since: Earliest time of an inspection; None for no limit.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    rows: list[InspectionRecord] = []
    before: UUID | None = None
    which = InspectionFilter(product=product, since=since)
    while len(rows) < limit:
        page = list_inspections(engine, which, before=before, limit=min(_PAGE, limit - len(rows)))
        if not page:
            break
        rows += page
        before = UUID(page[-1].id)
    return sorted(rows, key=lambda row: (row.product, row.bundle_digest))


class Replayer:
    """Replays verdicts. It loads the bundles that it needs, one at a time, independently of the active ones.

    Args:
        source: Where the bundles come from.
        store: The store of the inspections.
        loader: Loads the bundles, with other options: one image at a time and no limits on its size.
    """

    def __init__(self, source: BundleSource, store: Store, loader: BundleLoader) -> None:
        self._source = source
        self._store = store
        self._references = ReferenceScores(store.engine)
        # Images are replayed one at a time, so no warm-up for batches is needed.
        options = loader.options
        self._loader = loader.with_options(
            replace(options, batching=replace(options.batching, max_batch=1, concurrency=1), limits=_NO_LIMITS)
        )
        self._loaded: Inspector | None = None

    def replay(self, row: InspectionRecord) -> Replay:
        """Judge the image of a stored inspection again.

        Raises:
            ArtefactGone, StoredImageUnreadable: The image is no longer stored, or cannot be decoded.
            UnknownBundle, UnknownRevision: The bundle or the recipe is no longer available.
            BundleInvalid, ProviderUnavailable: The bundle cannot be run on this machine.
            BundleStoreUnavailable: The bundle cannot be fetched.
            NotJudged: The image was rejected by the quality check.
            StoreUnavailable: The database cannot be read.
        """
        if row.score is None or row.p_value is None:
            raise NotJudged(row.id)
        inspector = self._inspector(row)
        recipe = get_recipe(self._store.engine, row.product, row.recipe_revision).recipe
        is_tiled = inspector.geometry.tiling is not None
        copies = None if is_tiled else row.batch_size
        judged = judge_again(self._store, self._references, row, inspector, recipe, copies=copies)
        difference = abs(judged.score - row.score)
        if row.provider != inspector.provider:
            tolerance = inspector.bundle.manifest.parity.tolerance
        else:
            tolerance = ROUNDING_TOLERANCE if is_tiled or inspector.provider != "cpu" else 0.0
        return Replay(
            inspection_id=row.id,
            stored=Verdict(row.decision, row.score, row.p_value, row.provider),
            replayed=Verdict(judged.decision.value, judged.score, judged.p_value, inspector.provider),
            score_difference=difference / max(abs(row.score), math.ulp(1.0)),
            tolerance=tolerance,
        )

    def close(self) -> None:
        """Unload the bundle."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None
            return_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inspector(self, row: InspectionRecord) -> Inspector:
        if self._loaded is not None and self._loaded.bundle.digest == row.bundle_digest:
            return self._loaded
        self.close()
        path = self._source.require(row.product, row.bundle_version)
        self._loaded = self._source.use(
            row.product, row.bundle_version, lambda path: self._loader.load(path, row.product)
        )
        if self._loaded.bundle.digest != row.bundle_digest:
            raise BundleIntegrity(path, "its digest is not that of the bundle that decided the inspection.")
        return self._loaded
