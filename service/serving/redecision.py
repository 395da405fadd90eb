"""Decide stored inspections again by other criteria, from their scores and anomaly maps, without running the graph."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import fields

from service.bundle.arrays import Float32Map
from service.deployment.lease import ActiveProduct
from service.inspection.area import EVERYTHING, Area
from service.inspection.decision import Criteria, Decision, decide
from service.inspection.quality import Quality, QualityLimits, find_violations
from service.inspection.regions import NO_FILTER
from service.recipes.recipe import Recipe
from service.schemas.sections import InvalidReason
from service.store.errors import NotJudged
from service.store.recipes import get_recipe
from service.store.records import InspectionRecord
from service.store.store import Store

MAP_CACHE_BYTES = 64 * 2**20
"""Memory for anomaly maps that are likely to be needed again, such as those of the last inspections."""
_MAX_AREAS = 256
_MEASURES = tuple(field.name for field in fields(Quality))


class Redecider:
    """Decides stored inspections again with the bundle that decided them. All methods block.

    Args:
        store: Recipes and anomaly maps.
        cache_bytes: Memory for maps that were read; 0 reads every map when it is needed.
    """

    def __init__(self, store: Store, cache_bytes: int = 0) -> None:
        self._store = store
        self._limit = cache_bytes
        self._lock = threading.Lock()
        self._maps: OrderedDict[str, Float32Map] = OrderedDict()
        self._held_bytes = 0
        # Never invalidated, because a stored revision never changes.
        self._areas: dict[tuple[str, int], Area] = {}

    def decide(self, active: ActiveProduct, record: InspectionRecord, criteria: Criteria) -> Decision:
        """Return the decision by other criteria, from the score if it suffices, otherwise from the map.

        Args:
            active: Bundle and recipe of the product. The bundle must be the one that decided.
            record: The inspection.
            criteria: The criteria to apply.

        Raises:
            NotJudged: The quality check rejected the image.
            AreaMismatch: The area of the criteria does not fit the image.
            ArtefactGone: The map is needed and no longer stored.
            StoreUnavailable: The map or the recipe cannot be read.
        """
        if record.score is None:
            raise NotJudged(record.id)
        by_score = decide(record.score, criteria.thresholds)
        # Region filters can only make a decision milder, so "pass" by the score is final.
        is_final = by_score is Decision.PASS or criteria.regions == NO_FILTER
        if is_final and self._is_score_of(record, criteria.area):
            return by_score
        image_wh = (record.image_width, record.image_height)
        return active.rules.judge_map(self.read_map(record), image_wh, criteria).decision

    def read_map(self, record: InspectionRecord) -> Float32Map:
        """Return the anomaly map of a judged inspection, float32 [h, w].

        Raises:
            ArtefactGone: It is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        with self._lock:
            if (held := self._maps.get(record.id)) is not None:
                self._maps.move_to_end(record.id)
                return held
        anomaly_map = self._store.files.map_of(record)
        if anomaly_map.nbytes <= self._limit:
            with self._lock:
                if record.id not in self._maps:
                    self._maps[record.id] = anomaly_map
                    self._held_bytes += anomaly_map.nbytes
                while self._held_bytes > self._limit:
                    self._held_bytes -= self._maps.popitem(last=False)[1].nbytes
        return anomaly_map

    def _is_score_of(self, record: InspectionRecord, area: Area) -> bool:
        """Return whether the stored score is that of an area of the image."""
        if record.judged_share is None and area == EVERYTHING:
            return True
        key = record.product, record.recipe_revision
        found = self._areas.get(key)
        if found is None:
            found = get_recipe(self._store.engine, *key).recipe.area
            if len(self._areas) >= _MAX_AREAS:
                self._areas.clear()
            self._areas[key] = found
        return found == area


def is_rejected(record: InspectionRecord, bundle_limits: QualityLimits, recipe: Recipe) -> bool:
    """Return whether the quality check would reject the image of a stored inspection, from the stored measures.

    An image without stored measures, from before they were stored, keeps its result. So does one that was not found to
    repeat the images before it: how many it repeats is stored only if it was rejected for that.

    Args:
        record: The inspection.
        bundle_limits: The limits that follow from the bundle's calibration images, `Inspector.quality_limits`.
        recipe: The recipe whose limits are applied.
    """
    if record.quality is None:
        return bool(record.objections)
    quality = Quality(**{name: record.quality[name] for name in _MEASURES if name in record.quality})
    limits = recipe.quality.combine(bundle_limits, recipe.pixels)
    if find_violations(quality, (record.image_width, record.image_height), limits):
        return True
    frozen_after = None if InvalidReason.FROZEN_FRAME in recipe.quality.off else recipe.quality.frozen_after
    repeats = [item["measured"] for item in record.objections or [] if item["reason"] == InvalidReason.FROZEN_FRAME]
    return frozen_after is not None and any(count >= frozen_after for count in repeats)
