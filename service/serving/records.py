"""Build the records that are stored for inspections."""

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
from service.store.records import InspectionRecord

_NPY_HEADER_BYTES = 128


@dataclass(frozen=True)
class PartRecord:
    """Metadata of the part and of the request, as sent by the client. It is stored and returned, never interpreted."""

    part_id: str | None = None
    station: str | None = None
    lot: str | None = None
    captured_at: datetime | None = None
    request_id: str | None = None
    traceparent: str | None = None


def to_record(
    inspection_id: UUID,
    created_at: datetime,
    active: ActiveProduct,
    judged: Inspection,
    reference: Sequence[float],
    data: bytes,
    part: PartRecord,
    *,
    is_suspended: bool,
) -> InspectionRecord:
    """Build the record of a judged image, with everything that showing and replaying it needs.

    Args:
        inspection_id: UUIDv7 of the inspection.
        created_at: Time of the inspection.
        active: Bundle and recipe that judged the image.
        judged: The result.
        reference: Scores of good images that the p-value is relative to.
        data: The encoded image or camera buffer.
        part: Metadata sent by the client.
        is_suspended: Whether the guarantee is suspended because of drift.
    """
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
        artefact_bytes=len(data) + _NPY_HEADER_BYTES + judged.anomaly_map.nbytes,
        **_common_fields(inspection_id, created_at, active, judged.image, reference, data, part, is_suspended),
    )


def to_invalid_record(
    inspection_id: UUID,
    created_at: datetime,
    active: ActiveProduct,
    prepared: PreparedImage,
    violations: Sequence[QualityViolation],
    reference: Sequence[float],
    data: bytes,
    part: PartRecord,
    *,
    is_suspended: bool,
) -> InspectionRecord:
    """Build the record of an image that the quality check rejected.

    Args:
        inspection_id: UUIDv7 of the inspection.
        created_at: Time of the inspection.
        active: Bundle and recipe in force.
        prepared: The decoded image with its quality measures.
        violations: Quality limits that the image violates.
        reference: Scores of good images that p-values are relative to.
        data: The encoded image or camera buffer.
        part: Metadata sent by the client.
        is_suspended: Whether the guarantee is suspended because of drift.
    """
    return InspectionRecord(
        decision=Decision.INVALID.value,
        score=None,
        p_value=None,
        regions=[],
        timings_ms=_milliseconds(prepared.timings),
        batch_size=0,
        objections=[violation.to_stored() for violation in violations],
        artefact_bytes=len(data),
        **_common_fields(inspection_id, created_at, active, prepared, reference, data, part, is_suspended),
    )


def _common_fields(
    inspection_id: UUID,
    created_at: datetime,
    active: ActiveProduct,
    prepared: PreparedImage,
    reference: Sequence[float],
    data: bytes,
    part: PartRecord,
    is_suspended: bool,
) -> dict[str, Any]:
    """Return the fields that do not depend on the decision."""
    bundle, recipe = active.bundle, active.recipe.recipe
    scale = active.rules.heatmap_scale(recipe.thresholds, recipe.heatmap.low, recipe.heatmap.high)
    return {
        "id": str(inspection_id),
        "created_at": created_at,
        "product": bundle.manifest.product,
        "fail_threshold": recipe.fail_threshold,
        "review_threshold": recipe.review_threshold,
        "target_false_reject_rate": recipe.target_false_reject_rate,
        "certified": recipe.certified and not is_suspended,
        "suspended": is_suspended or None,
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


def _milliseconds(timings_s: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(seconds * 1000, 3) for stage, seconds in timings_s.items()}


def to_region(stored: dict[str, Any]) -> Region:
    """Return a region from its stored JSON form, which has lists instead of tuples."""
    x, y, width, height = stored["bbox"]
    peak_x, peak_y = stored["peak_xy"]
    return Region(
        bbox=(x, y, width, height),
        polygon=tuple((point_x, point_y) for point_x, point_y in stored["polygon"]),
        area_px=stored["area_px"],
        peak=stored["peak"],
        peak_xy=(peak_x, peak_y),
    )
