"""What is stored of an inspection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.deployment.lease import ActiveProduct
from service.inspection.decision import Decision
from service.inspection.quality import QualityViolation
from service.inspection.records import Inspection, PreparedImage
from service.inspection.regions import Region
from service.store.ids import created_at
from service.store.records import InspectionRecord


@dataclass(frozen=True)
class PartRecord:
    """What the sender says about the part, and how the request was named. Stored and echoed, never
    interpreted.
    """

    part_id: str | None = None
    station: str | None = None
    lot: str | None = None
    captured_at: datetime | None = None
    request_id: str | None = None
    traceparent: str | None = None


def to_row(
    inspection_id: UUID,
    active: ActiveProduct,
    judged: Inspection,
    reference: Sequence[float],
    data: bytes,
    part: PartRecord,
) -> InspectionRecord:
    """What is remembered of an inspection: everything that showing and replaying it needs."""
    return InspectionRecord(
        decision=judged.decision.value,
        score=judged.score,
        p_value=judged.p_value,
        regions=[asdict(region) for region in judged.regions],
        timings_ms=_milliseconds(judged.timings),
        batch_size=judged.batch_size,
        by_score=judged.by_score.value if judged.dropped else None,
        dropped_regions=dict(judged.dropped) or None,
        judged_share=judged.judged_share if judged.judged_share < 1 else None,
        **_facts(inspection_id, active, judged.image, reference, data, part),
    )


def to_invalid_row(
    inspection_id: UUID,
    active: ActiveProduct,
    prepared: PreparedImage,
    objections: Sequence[QualityViolation],
    reference: Sequence[float],
    data: bytes,
    part: PartRecord,
) -> InspectionRecord:
    """What is remembered of an image that was not worth a verdict."""
    return InspectionRecord(
        decision=Decision.INVALID.value,
        score=None,
        p_value=None,
        regions=[],
        timings_ms=_milliseconds(prepared.timings),
        batch_size=0,
        objections=[objection.to_stored() for objection in objections],
        **_facts(inspection_id, active, prepared, reference, data, part),
    )


def _facts(
    inspection_id: UUID,
    active: ActiveProduct,
    prepared: PreparedImage,
    reference: Sequence[float],
    data: bytes,
    part: PartRecord,
) -> dict[str, Any]:
    """What is remembered whatever came out: what was inspected, with what, by which rules."""
    bundle, recipe = active.bundle, active.recipe.recipe
    scale = active.inspector.heatmap_scale(recipe.thresholds, recipe.heatmap.low, recipe.heatmap.high)
    return {
        "id": str(inspection_id),
        "created_at": created_at(inspection_id),
        "product": bundle.manifest.product,
        "fail_threshold": recipe.fail_threshold,
        "review_threshold": recipe.review_threshold,
        "target_false_reject_rate": recipe.target_false_reject_rate,
        "certified": recipe.certified,
        "calibration_count": len(reference),
        "proposal_id": recipe.proposal_id,
        "heatmap_low": scale.low,
        "heatmap_high": scale.high,
        "bundle_digest": bundle.digest,
        "bundle_version": bundle.version,
        "method": bundle.manifest.method,
        "provider": active.inspector.provider,
        "recipe_revision": active.recipe.revision,
        "image_media_type": prepared.media_type,
        "image_width": prepared.image_wh[0],
        "image_height": prepared.image_wh[1],
        "image_bytes": len(data),
        "image_sha256": prepared.sha256,
        "image_pixels": prepared.rules.to_stored(),
        "quality": asdict(prepared.quality),
        **asdict(part),
    }


def _milliseconds(timings: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(seconds * 1000, 3) for stage, seconds in timings.items()}


def to_region(stored: dict[str, Any]) -> Region:
    """A region as it was stored; JSON knows lists only."""
    x, y, width, height = stored["bbox"]
    peak_x, peak_y = stored["peak_xy"]
    return Region(
        bbox=(x, y, width, height),
        polygon=tuple((point_x, point_y) for point_x, point_y in stored["polygon"]),
        area_px=stored["area_px"],
        peak=stored["peak"],
        peak_xy=(peak_x, peak_y),
    )
