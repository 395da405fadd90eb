"""Replaying verdicts: deciding a stored image again with the bundle and the recipe that its inspection names.

On the CPU, where the CPU gave it, a verdict comes out the same to the last bit: the graph runs on as many copies of the
image as there were images in its batch then. Tiles went in batches of several sizes, and CUDA's libraries choose
their algorithms anew, so there a score may differ in its last digits. On another provider it may differ as far as the
bundle's parity certificate allows. The decision must be the same even so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

from sqlalchemy import Engine

from service.bundle.bundle import bundle_folders
from service.bundle.errors import BundleIntegrity
from service.deployment.errors import UnknownBundle
from service.deployment.memory import return_freed_memory
from service.deployment.reference_scores import References
from service.deployment.rejudge import judge_again
from service.deployment.repository import load_inspector
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.inspector import Inspector, InspectorOptions
from service.store.errors import NotJudged
from service.store.inspections import InspectionFilter, list_inspections
from service.store.recipes import get_recipe
from service.store.records import InspectionRecord
from service.store.store import Store

# A batch's size moves scores by some 3e-7 (measured on the washer's graph, relative to the largest value).
LAST_DIGITS = 1e-5
_PAGE = 500
# Every image was admitted once; limits that were lowered since do not hide it.
_NO_LIMITS = ImageLimits(max_bytes=2**31 - 1, max_pixels=2**30)


@dataclass(frozen=True)
class Said:
    """What was said about an image, then or now."""

    decision: str
    score: float
    p_value: float
    provider: str


@dataclass(frozen=True)
class Replay:
    """A verdict and what came out when it was given again.

    Attributes:
        inspection_id: The inspection.
        stored: The verdict as it was answered.
        replayed: The verdict as it comes out now.
        score_difference: Relative to the stored score.
        tolerance: How much of that is allowed; nothing where both come from the CPU.
    """

    inspection_id: str
    stored: Said
    replayed: Said
    score_difference: float
    tolerance: float

    @property
    def outcome(self) -> Literal["same", "different"]:
        is_same = self.stored.decision == self.replayed.decision and self.score_difference <= self.tolerance
        if self.tolerance == 0:
            is_same = is_same and self.stored.p_value == self.replayed.p_value
        return "same" if is_same else "different"

    @property
    def summary(self) -> str:
        stored, replayed = self.stored, self.replayed
        if self.outcome == "same" and self.score_difference == 0:
            return f"{stored.decision} with score {stored.score:.6g}, to the last bit."
        route = stored.provider if stored.provider == replayed.provider else f"{stored.provider} to {replayed.provider}"
        allowed = f"{self.tolerance:.1g} on {route}" if self.tolerance else f"nothing on {route}"
        return (
            f"{stored.decision} with score {stored.score:.9g} and p {stored.p_value:.4g} then, {replayed.decision} "
            f"with {replayed.score:.9g} and {replayed.p_value:.4g} now; the scores differ by "
            f"{self.score_difference:.1e}, allowed is {allowed}."
        )


def newest_since(engine: Engine, product: str | None, since: datetime | None, limit: int) -> list[InspectionRecord]:
    """The newest inspections, bundle by bundle, so that each bundle is loaded once.

    Args:
        engine: The database.
        product: Only of this one; None: of all.
        since: Only those that were judged then or later; None: from the first one on.
        limit: Most of them.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    rows: list[InspectionRecord] = []
    before: UUID | None = None
    which = InspectionFilter(product=product)
    while len(rows) < limit:
        page = list_inspections(engine, which, before=before, limit=min(_PAGE, limit - len(rows)))
        rows += [row for row in page if since is None or row.created_at >= since]
        if not page or (since is not None and page[-1].created_at < since):
            break
        before = UUID(page[-1].id)
    return sorted(rows, key=lambda row: (row.product, row.bundle_digest))


class Replayer:
    """Gives verdicts again. It loads the bundles that it needs for itself, one at a time, beside those that serve.

    Args:
        models: The model repository.
        store: Where the inspections are.
        options: How the bundles are run.
    """

    def __init__(self, models: Path, store: Store, options: InspectorOptions) -> None:
        self._models = models
        self._store = store
        self._references = References(store.engine)
        # One image at a time, and nobody waits for it: no batches to warm up for.
        self._options = replace(options, batching=replace(options.batching, max_batch=1), limits=_NO_LIMITS)
        self._loaded: Inspector | None = None

    def replay(self, row: InspectionRecord) -> Replay:
        """Decide a stored image again.

        Raises:
            ArtefactGone: The image is not on disk any more.
            UnknownBundle, UnknownRevision: The bundle or the recipe is not there any more.
            BundleInvalid, ProviderUnavailable: The bundle cannot be run here.
            NotJudged: No bundle ever looked at the image.
            StoreUnavailable: The database does not answer.
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
            tolerance = LAST_DIGITS if is_tiled or inspector.provider != "cpu" else 0.0
        return Replay(
            inspection_id=row.id,
            stored=Said(row.decision, row.score, row.p_value, row.provider),
            replayed=Said(judged.decision.value, judged.score, judged.p_value, inspector.provider),
            score_difference=difference / max(abs(row.score), math.ulp(1.0)),
            tolerance=tolerance,
        )

    def close(self) -> None:
        """Unload what was loaded."""
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
        folder = self._models / row.product
        path = folder / row.bundle_version
        if not path.is_dir():
            known = [other.name for other in bundle_folders(folder)] if folder.is_dir() else []
            raise UnknownBundle(row.product, row.bundle_version, known)
        self._loaded = load_inspector(path, row.product, self._options)
        if self._loaded.bundle.digest != row.bundle_digest:
            raise BundleIntegrity(path, "it is not the bundle that decided the inspection.")
        return self._loaded
