"""Responses that explain a decision."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from service.schemas.common import ResponseModel
from service.schemas.inspection import BundleReference, Links, PreviewImage

_RECTANGLE = "Left, top, width and height in pixels of"


class MapCell(ResponseModel):
    """A cell of the anomaly map."""

    row: int
    column: int
    rows: int = Field(description="Rows of the map.")
    columns: int
    box: tuple[float, float, float, float] = Field(description=f"{_RECTANGLE} the inspected image.")
    value: float = Field(description="The cell's value in the anomaly map.")
    is_peak: bool = Field(description="Whether the cell has the highest value of the judged area.")


class SourceContribution(ResponseModel):
    """What one of the maps that are added up contributes to the value of the cell."""

    source: str = Field(description="Name of the map, such as `query_full`; see the section of the method in the docs.")
    value: float = Field(description="Its part of the cell's value. All parts add up to it.")
    share: float = Field(description="Its part of the sum of all positive parts, 0 to 1.")


class ExplanationPatch(ResponseModel):
    """A part of an image around a cell."""

    image: PreviewImage
    cell: tuple[float, float, float, float] = Field(
        description="Left, top, width and height of the cell, relative to the sides of the patch."
    )


class OriginalImage(ResponseModel):
    """The good image that a prototype comes from."""

    name: str = Field(description="Name of the file in the folder of good images that the bundle was trained with.")
    sha256: str
    width: int
    height: int
    captured_on: date | None = Field(
        description="The day on which the image was taken; null if neither the file nor its name states it."
    )
    dated_by: Literal["file", "name"] | None = Field(
        description="What states the day: the metadata of the file (EXIF) or its name."
    )
    cell: tuple[float, float, float, float] = Field(description=f"Place of the normal cell: {_RECTANGLE.lower()} it.")
    augmented: bool = Field(description="Whether training had rotated, moved or brightened what the patch shows.")


class NearestNormal(ResponseModel):
    """The normal cell of a memory bank that is nearest to the cell."""

    bank: str = Field(description="Name of the memory bank, which is one of the sources.")
    prototype: int = Field(description="Index of the nearest prototype.")
    distance: float = Field(
        description="Distance to it, before it is weighted, smoothed and added to the other sources."
    )
    spot: ExplanationPatch = Field(description="The inspected image around the cell, at the scale of `patch`.")
    patch: ExplanationPatch | None = Field(description="The normal cell; null if the bundle has no copy of it.")
    image: OriginalImage | None = Field(description="Where it comes from; null if the bundle does not state it.")


class WhyRecord(ResponseModel):
    """Why a spot of an inspected image has its value in the anomaly map."""

    inspection_id: str
    product: str
    bundle: BundleReference
    cell: MapCell
    fail_threshold: float = Field(description="The threshold that was in force, for comparison with the cell's value.")
    contributions: list[SourceContribution] = Field(description="The largest first.")
    spot: ExplanationPatch = Field(description="The inspected image around the cell.")
    nearest: list[NearestNormal] = Field(
        description="For each memory bank, the nearest normal cell; the bank that contributes most first. Empty if the "
        "method has no memory bank."
    )
    missing: str | None = Field(
        description="Why there is no normal patch beside the spot, and what to do; null if there is one."
    )
    links: Links
