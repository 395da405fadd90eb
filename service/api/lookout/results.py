"""Results in the form of Amazon Lookout for Vision."""

from __future__ import annotations

import base64

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_pascal

from service.inspection.heatmap.mask import AnomalyMask
from service.schemas.common import ResponseModel
from service.store.records import InspectionRecord

BACKGROUND, BACKGROUND_COLOUR = "background", "#FFFFFF"
ANOMALY, ANOMALY_COLOUR = "anomaly", "#23A436"


class _AwsModel(ResponseModel):
    """A model whose members begin with a capital letter."""

    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, populate_by_name=True, serialize_by_alias=True)


class ImageSource(_AwsModel):
    """Where the image came from."""

    type: str = Field(default="direct", description="Always `direct`: the image was in the request.")


class PixelAnomaly(_AwsModel):
    """Pixels of the mask."""

    total_percentage_area: float = Field(ge=0, le=1, description="Share of the image, 0 to 1.")
    color: str = Field(description="Colour of these pixels in the mask, `#RRGGBB`.")


class Anomaly(_AwsModel):
    """A class of pixels of the mask."""

    name: str = Field(description="`background` or `anomaly`.")
    pixel_anomaly: PixelAnomaly


class DetectAnomalyResult(_AwsModel):
    """The decision about an image."""

    source: ImageSource
    is_anomalous: bool = Field(
        description="True for the decision `fail`; for `review` if PLUMBLINE_LOOKOUT_REVIEW_IS_ANOMALOUS is set."
    )
    confidence: float = Field(
        ge=0,
        le=1,
        description="From the p-value, the estimated share of good parts with a score at least as large: 1 - p for an "
        "anomalous part, p for a normal one. It is not the probability of a defect.",
    )
    anomalies: list[Anomaly]
    anomaly_mask: str = Field(description="PNG, base64: the regions of the inspection, filled, on white.")


class DetectAnomaliesResponse(_AwsModel):
    """The response of `DetectAnomalies`."""

    detect_anomaly_result: DetectAnomalyResult


def is_anomalous(decision: str, *, is_review_anomalous: bool) -> bool:
    """Return whether a decision means an anomalous part.

    Args:
        decision: `pass`, `review` or `fail`.
        is_review_anomalous: What `review` means.
    """
    return decision == "fail" or (decision == "review" and is_review_anomalous)


def to_response(record: InspectionRecord, mask: AnomalyMask, *, is_review_anomalous: bool) -> DetectAnomaliesResponse:
    """Map an inspection that has a p-value and the mask of its regions."""
    anomalous = is_anomalous(record.decision, is_review_anomalous=is_review_anomalous)
    p_value = record.p_value or 0.0
    classes = [(BACKGROUND, BACKGROUND_COLOUR, 1 - mask.share)]
    if mask.share:
        classes.append((ANOMALY, ANOMALY_COLOUR, mask.share))
    return DetectAnomaliesResponse(
        detect_anomaly_result=DetectAnomalyResult(
            source=ImageSource(),
            is_anomalous=anomalous,
            confidence=1 - p_value if anomalous else p_value,
            anomalies=[
                Anomaly(name=name, pixel_anomaly=PixelAnomaly(total_percentage_area=share, color=colour))
                for name, colour, share in classes
            ],
            anomaly_mask=base64.b64encode(mask.png).decode(),
        )
    )
