"""The requests that the Python client makes, the same for its sync and its async side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

HeatmapFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    content: bytes | None = None
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[str, tuple[str, bytes, str]]] = ()

    def arguments(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "params": self.params,
            "content": self.content,
            "json": self.json,
            "headers": self.headers,
            "files": self.files,
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class CameraBuffer:
    """How a camera buffer is laid out, for `Client.inspect`. What is None, the product's recipe declares.

    Attributes:
        pixel_format: PFNC name, such as "Mono12p" or "BayerRG8".
        width: Pixels in a line.
        height: Lines.
        stride: Bytes from line to line; None where lines follow each other without padding.
    """

    pixel_format: str | None = None
    width: int | None = None
    height: int | None = None
    stride: int | None = None

    def headers(self) -> dict[str, str]:
        """As the service takes them."""
        given = {
            "x-pixel-format": self.pixel_format,
            "x-width": self.width,
            "x-height": self.height,
            "x-stride": self.stride,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


def _about(about: Mapping[str, str | datetime | None]) -> dict[str, str]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in about.items()
        if value is not None
    }


def batch_call(
    product: str,
    images: Sequence[tuple[str, bytes]],
    about: Mapping[str, str | datetime | None],
    buffer: CameraBuffer | None,
) -> Call:
    files = [("image", (name, data, "application/octet-stream")) for name, data in images]
    headers = {} if buffer is None else buffer.headers()
    return Call("POST", f"/v1/products/{product}/inspections:batch", _about(about), headers=headers, files=files)


def inspect_call(
    product: str, image: bytes, about: Mapping[str, str | datetime | None], buffer: CameraBuffer | None
) -> Call:
    # The service looks at the bytes anyway; what they are called makes no difference.
    headers = {"content-type": "application/octet-stream", "accept": "application/json"}
    headers |= {} if buffer is None else buffer.headers()
    return Call("POST", f"/v1/products/{product}/inspections", _about(about), content=image, headers=headers)


def page_call(cursor: str | None, limit: int, which: Mapping[str, str | None]) -> Call:
    params = {name: value for name, value in {**which, "cursor": cursor}.items() if value is not None}
    return Call("GET", "/v1/inspections", {**params, "limit": limit})


def heatmap_call(inspection_id: str, image_format: HeatmapFormat | None) -> Call:
    params = {"format": image_format} if image_format else {}
    return Call("GET", f"/v1/inspections/{inspection_id}/heatmap", params)


def image_call(inspection_id: str, as_png: bool) -> Call:
    return Call("GET", f"/v1/inspections/{inspection_id}/image", {"format": "png"} if as_png else {})


def propose_call(
    product: str,
    wish: Mapping[str, Any],
    selected: Mapping[str, Any],
    images: Sequence[tuple[str, bytes]] | None,
    archive: bytes | None,
) -> Call:
    path = f"/v1/products/{product}/thresholds:propose"
    given = {name: value for name, value in wish.items() if value is not None}
    if images is not None or archive is not None:
        files = [("image", (name, data, "application/octet-stream")) for name, data in images or ()]
        headers = {} if archive is None else {"content-type": "application/zip"}
        params = {**given, "declared_good": "true"}
        return Call("POST", path, params, content=archive, headers=headers, files=files)
    chosen = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in selected.items()
        if value is not None
    }
    if chosen:
        given["inspections"] = {**chosen, "declared_good": True}
    return Call("POST", path, json=given)
