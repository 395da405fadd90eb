"""Headers of responses, and parts of the OpenAPI description that several routes share."""

from __future__ import annotations

from typing import Any

from service.api.http.errors import BodyTooSlow, RequestTimeout
from service.api.http.forms import IMAGE_FIELD
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    MemoryBudgetExceeded,
    QueueFull,
    ShuttingDown,
    UnsupportedMediaType,
)
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import (
    AreaMismatch,
    BufferSizeMismatch,
    CorruptImage,
    ImageTooComplex,
    NotAnImage,
    PixelMismatch,
    ScoreNotFinite,
    TooManyPixels,
    UnknownPixelFormat,
    UnsupportedImage,
)
from service.store.errors import StoreUnavailable
from service.store.records import InspectionRecord

BINARY = {"type": "string", "format": "binary"}
IMAGES_FORM = {
    "type": "object",
    "required": [IMAGE_FIELD],
    "properties": {IMAGE_FIELD: {"type": "array", "items": BINARY}},
}
INSPECT_ERRORS = (
    UnknownProduct,
    RequestTimeout,
    BodyTooSlow,
    BodyTooLarge,
    TooManyPixels,
    ImageTooComplex,
    UnsupportedMediaType,
    NotAnImage,
    UnsupportedImage,
    UnknownPixelFormat,
    CorruptImage,
    BufferSizeMismatch,
    PixelMismatch,
    AreaMismatch,
    InvalidRequest,
    ScoreNotFinite,
    QueueFull,
    MemoryBudgetExceeded,
    DeadlineExceeded,
    ShuttingDown,
    ProductNotReady,
    StoreUnavailable,
)
VERDICT_HEADERS = {
    name: {"description": text, "schema": {"type": kind}}
    for name, text, kind in (
        ("X-Plumbline-Id", "Id of the inspection.", "string"),
        ("X-Plumbline-Product", "The product.", "string"),
        ("X-Plumbline-Decision", "pass, review, fail or invalid.", "string"),
        ("X-Plumbline-Decision-By-Score", "The decision without region filters.", "string"),
        ("X-Plumbline-Score", "Raw image score; absent for an invalid image.", "number"),
        (
            "X-Plumbline-P-Value",
            "p-value of the score with respect to good images; absent for an invalid image.",
            "number",
        ),
        ("X-Plumbline-Invalid-Reasons", "For an invalid image: the reasons, comma-separated.", "string"),
        ("X-Plumbline-Fail-Threshold", "The part fails if the score is above this threshold.", "number"),
        ("X-Plumbline-Review-Threshold", "The part needs review if the score is above this threshold.", "number"),
        ("X-Plumbline-Bundle", "Digest of the bundle.", "string"),
        ("X-Plumbline-Recipe-Revision", "Revision of the recipe.", "integer"),
    )
}
BUFFER_HEADERS = {
    name: {"description": text, "schema": {"type": kind}}
    for name, text, kind in (
        ("X-Pixel-Format", "PFNC name of the camera buffer's pixel format.", "string"),
        ("X-Width", "Width in pixels.", "integer"),
        ("X-Height", "Height in pixels.", "integer"),
        ("X-Stride", "Distance between rows in bytes, if rows are padded.", "integer"),
    )
}


def binary_response(description: str, media_types: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """Return the OpenAPI description of a binary response."""
    return {"description": description, "content": {name: {"schema": BINARY} for name in media_types}, **more}


def location_header(what: str) -> dict[str, Any]:
    """Return the OpenAPI description of the `Location` header of a response."""
    return {"Location": {"description": f"URL of {what}.", "schema": {"type": "string"}}}


def verdict_headers(record: InspectionRecord) -> dict[str, str]:
    """Return the headers that describe the decision of an inspection."""
    reasons = dict.fromkeys(violation["reason"] for violation in record.objections or [])
    values = {
        "X-Plumbline-Id": record.id,
        "X-Plumbline-Product": record.product,
        "X-Plumbline-Decision": record.decision,
        "X-Plumbline-Decision-By-Score": record.by_score or record.decision,
        "X-Plumbline-Score": None if record.score is None else repr(record.score),
        "X-Plumbline-P-Value": None if record.p_value is None else repr(record.p_value),
        "X-Plumbline-Invalid-Reasons": ",".join(reasons) or None,
        "X-Plumbline-Fail-Threshold": repr(record.fail_threshold),
        "X-Plumbline-Review-Threshold": repr(record.review_threshold),
        "X-Plumbline-Bundle": record.bundle_digest,
        "X-Plumbline-Recipe-Revision": str(record.recipe_revision),
    }
    return {name: value for name, value in values.items() if value is not None}


def layout_headers(rules: PixelRules) -> dict[str, str]:
    """Return the headers that describe the layout of a camera buffer; none for an encoded image."""
    layout = rules.layout
    if layout is None:
        return {}
    values = {"X-Pixel-Format": layout.pixel_format, "X-Width": layout.width, "X-Height": layout.height}
    if layout.stride is not None:
        values["X-Stride"] = layout.stride
    return {name: str(value) for name, value in values.items()}
