"""Map explanations to the schemas of the API."""

from __future__ import annotations

import base64

from service.api.mapping import to_links
from service.deployment.explanations import NormalPatch, Why
from service.inspection.explanation.explainer import Box, CellExplanation
from service.inspection.explanation.patches import MEDIA_TYPE, Patch
from service.schemas.explanation import (
    ExplanationPatch,
    MapCell,
    NearestNormal,
    OriginalImage,
    SourceContribution,
    WhyRecord,
)
from service.schemas.inspection import BundleReference, PreviewImage

Rectangle = tuple[float, float, float, float]


def to_why(why: Why) -> WhyRecord:
    """Map the explanation of a spot."""
    record, found = why.record, why.explanation
    return WhyRecord(
        inspection_id=record.id,
        product=record.product,
        bundle=BundleReference(digest=record.bundle_digest, version=record.bundle_version, method=record.method),
        cell=MapCell(
            row=found.row,
            column=found.column,
            rows=why.map_hw[0],
            columns=why.map_hw[1],
            box=_in_pixels(found.box, record.image_width, record.image_height),
            value=found.value,
            is_peak=why.is_peak,
        ),
        fail_threshold=record.fail_threshold,
        contributions=_contributions(found),
        spot=_patch(why.spot),
        nearest=[_nearest(one) for one in why.normal],
        missing=why.missing,
        links=to_links(record.id, record.product),
    )


def _contributions(found: CellExplanation) -> list[SourceContribution]:
    positive = sum(max(0.0, one.value) for one in found.contributions)
    return [
        SourceContribution(
            source=one.source, value=one.value, share=max(0.0, one.value) / positive if positive > 0 else 0.0
        )
        for one in found.contributions
    ]


def _nearest(normal: NormalPatch) -> NearestNormal:
    image = None
    if normal.image is not None and normal.cell is not None:
        image = OriginalImage(
            **normal.image.model_dump(),
            cell=_in_pixels(normal.cell, normal.image.width, normal.image.height),
            augmented=normal.is_augmented,
        )
    return NearestNormal(
        bank=normal.nearest.bank.name,
        prototype=normal.nearest.prototype,
        distance=normal.nearest.distance,
        spot=_patch(normal.spot),
        patch=None if normal.patch is None else _patch(normal.patch),
        image=image,
    )


def _patch(patch: Patch) -> ExplanationPatch:
    width, height = patch.size_wh
    data = base64.b64encode(patch.content).decode("ascii")
    image = PreviewImage(media_type=MEDIA_TYPE, width=width, height=height, data=data)
    return ExplanationPatch(image=image, cell=_rectangle(patch.cell))


def _in_pixels(box: Box, width: int, height: int) -> Rectangle:
    return box.left * width, box.top * height, box.width * width, box.height * height


def _rectangle(box: Box) -> Rectangle:
    return box.left, box.top, box.width, box.height
