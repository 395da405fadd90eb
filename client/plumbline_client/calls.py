"""Requests of the client as values, shared by its sync and its async side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import quote
from uuid import uuid4

from plumbline_client.schemas.inspection import InspectionLabel
from plumbline_client.schemas.sections import DecisionName

HeatmapFormat = Literal["png", "jpeg", "webp"]
NamedImage = tuple[str, bytes]
ImageSource = NamedImage | str | PathLike[str]
"""An image as (name, bytes), or the path of an image file."""


class InspectionFilters(TypedDict, total=False):
    """Conditions on stored inspections. All that are given must hold; None is as if it were not given."""

    product: str | None
    """Only inspections of this product."""
    decision: DecisionName | Sequence[DecisionName] | None
    """Only inspections with this decision, or with one of these."""
    part_id: str | None
    """Only inspections of this part."""
    station: str | None
    """Only inspections at this station."""
    lot: str | None
    """Only inspections of this lot."""
    since: datetime | None
    """Only inspections at or after this time, with time zone."""
    until: datetime | None
    """Only inspections before this time, with time zone."""
    min_score: float | None
    """Only inspections with at least this score."""
    max_score: float | None
    """Only inspections with at most this score."""
    label: InspectionLabel | None
    """Only inspections with this label by reviews."""
    ids: Sequence[str] | None
    """Only inspections with these ids, at most 200. Ids that do not exist are ignored."""


@dataclass(frozen=True)
class Call:
    """One HTTP request, relative to the base URL."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    content: bytes | None = None
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[str, tuple[str, bytes, str]]] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `httpx.Client.request` that are not empty."""
        arguments: dict[str, Any] = {
            "params": self.params,
            "content": self.content,
            "json": self.json,
            "headers": self.headers,
            "files": self.files,
        }
        return {name: value for name, value in arguments.items() if value}


@dataclass(frozen=True)
class CameraBuffer:
    """Layout of a camera buffer, for `inspect`, `inspect_batch` and `stream`. The recipe supplies what is None.

    Attributes:
        pixel_format: PFNC name, such as "Mono12p" or "BayerRG8".
        width: Width in pixels.
        height: Height in pixels.
        stride: Bytes from the start of one row to the start of the next; None if rows are not padded.
    """

    pixel_format: str | None = None
    width: int | None = None
    height: int | None = None
    stride: int | None = None

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that describe the layout."""
        headers = {
            "x-pixel-format": self.pixel_format,
            "x-width": self.width,
            "x-height": self.height,
            "x-stride": self.stride,
        }
        return {name: str(value) for name, value in given(headers).items()}


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None; a datetime in ISO 8601."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }


def product_path(product: str) -> str:
    """Return the path of a product."""
    return f"/v1/products/{quote(product, safe='')}"


def inspection_path(inspection_id: str) -> str:
    """Return the path of a stored inspection."""
    return f"/v1/inspections/{quote(inspection_id, safe='')}"


def read_images(images: Sequence[ImageSource]) -> list[NamedImage]:
    """Return name and bytes of each image. A file is read, and its name is the file name.

    Raises:
        OSError: A file cannot be read.
    """
    return [image if isinstance(image, tuple) else (Path(image).name, Path(image).read_bytes()) for image in images]


def read_good_images(images: Sequence[ImageSource]) -> list[NamedImage]:
    """Return name and bytes of each image of a training job.

    The name of a file contains its folders below the folder that all files have in common, because folders are capture
    groups.

    Raises:
        OSError: A file cannot be read.
    """
    files = [Path(image).absolute() for image in images if not isinstance(image, tuple)]
    try:
        root = Path(os.path.commonpath([file.parent for file in files]))
    except ValueError:  # there are no files, or they are on several drives
        return read_images(images)
    return [
        image
        if isinstance(image, tuple)
        else (Path(image).absolute().relative_to(root).as_posix(), Path(image).read_bytes())
        for image in images
    ]


def key_header(idempotency_key: str | None) -> dict[str, str]:
    """Return the header with the idempotency key of a request; a new random key if none is given.

    Every attempt at the same call has the same key, so an image is inspected once however often it is sent.
    """
    return {"idempotency-key": idempotency_key or str(uuid4())}


def inspect_call(
    product: str,
    image: bytes,
    part: Mapping[str, str | datetime | None],
    buffer: CameraBuffer | None,
    idempotency_key: str | None = None,
) -> Call:
    """Return the request that inspects one image."""
    # The service detects the image format from the bytes, so the content type need not name it.
    headers = {"content-type": "application/octet-stream", "accept": "application/json"}
    headers |= key_header(idempotency_key)
    headers |= {} if buffer is None else buffer.headers()
    return Call("POST", f"{product_path(product)}/inspections", given(part), content=image, headers=headers)


def try_call(product: str, image: bytes, buffer: CameraBuffer | None, max_side: int) -> Call:
    """Return the request that judges an image without storing it."""
    headers = {"content-type": "application/octet-stream"} | ({} if buffer is None else buffer.headers())
    return Call(
        "POST", f"{product_path(product)}/inspections:try", {"max_side": max_side}, content=image, headers=headers
    )


def batch_call(
    product: str,
    images: Sequence[NamedImage],
    part: Mapping[str, str | datetime | None],
    buffer: CameraBuffer | None,
    idempotency_key: str | None = None,
) -> Call:
    """Return the request that inspects several images."""
    headers = key_header(idempotency_key) | ({} if buffer is None else buffer.headers())
    path = f"{product_path(product)}/inspections:batch"
    return Call("POST", path, given(part), headers=headers, files=_form_files(images))


def filter_params(filters: InspectionFilters) -> dict[str, str]:
    """Return the query parameters of conditions on stored inspections."""
    joined = {name: ",".join(value) if isinstance(value, list | tuple) else value for name, value in filters.items()}
    return {name: repr(value) if isinstance(value, float) else value for name, value in given(joined).items()}


def page_call(cursor: str | None, limit: int, filters: Mapping[str, str]) -> Call:
    """Return the request for one page of stored inspections."""
    return Call("GET", "/v1/inspections", {**given({**filters, "cursor": cursor}), "limit": limit})


def propose_call(
    product: str,
    options: Mapping[str, Any],
    selection: Mapping[str, Any],
    images: Sequence[NamedImage] | None,
    archive: bytes | None,
) -> Call:
    """Return the request that derives thresholds from images, from stored inspections or from the calibration card."""
    path = f"{product_path(product)}/thresholds:propose"
    if images is not None or archive is not None:
        headers = {} if archive is None else {"content-type": "application/zip"}
        params = {**given(options), "declared_good": "true"}
        return Call("POST", path, params, content=archive, headers=headers, files=_form_files(images or ()))
    body = given(options)
    if selected := given(selection):
        body["inspections"] = {**selected, "declared_good": True}
    return Call("POST", path, json=body)


def _form_files(images: Sequence[NamedImage]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("image", (name, data, "application/octet-stream")) for name, data in images]
