"""Problems are in our own words: what was wrong, what was expected, what to do. No text of a library is in them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from tests.bundles import part, tiny_card, tiny_draft, tiny_model
from tests.library_texts import assert_own
from tests.running_service import GOOD, INSPECT, RunningService, encode, run_service

P = "/v1/products/widget"
WHO = {"author": "a", "reason": "r"}
TOML = {"content-type": "application/toml"}
ZIP = {"content-type": "application/zip"}
JSON = {"content-type": "application/json"}
IMAGE = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with run_service(tiny_models, tmp_path_factory.mktemp("data")) as running:
        yield running


def sent(service: RunningService, method: str, path: str, status: int, **options: Any) -> str:
    """Send a wrong request; return the problem as text after checking that it has no text of a library."""
    response = service.client.request(method, path, **options)
    problem = response.json()
    assert response.status_code == status, problem
    assert_own(json.dumps(problem))
    return str(problem["detail"])


@pytest.mark.parametrize(
    ("method", "path", "options", "expected"),
    [
        ("GET", "/v1/inspections?limit=many", {}, "query.limit: is not a whole number; give one such as 20"),
        ("GET", "/v1/inspections?limit=0", {}, "query.limit: is less than 1; give a number of at least 1"),
        ("GET", "/v1/inspections?limt=3", {}, "unknown parameter `limt` (did you mean `limit`?)"),
        ("GET", "/v1/inspections?decision=maybe", {}, "expected 'pass', 'review', 'fail' or 'invalid'"),
        ("GET", P + "/recipe/revisions/first", {}, "path.revision: is not a whole number"),
        ("POST", P + "/bundles/x:activate", {}, "body: is missing; send a JSON object with the field `reason`"),
        ("POST", P + "/bundles:stop-shadow", {}, "send a JSON object with the field `reason`"),
        ("POST", P + "/bundles:rollback", {}, "send a JSON object with the field `reason`"),
        ("POST", P + "/bundles/x:shadow", {}, "send a JSON object with the field `reason`"),
        ("POST", P + "/bundles/x:activate", {"json": {}}, "body.reason: is missing; it is required"),
        ("POST", P + "/bundles/x:activate", {"json": [1]}, "is a list, expected an object with fields of these names:"),
        ("POST", P + "/bundles/x:activate", {"json": {"author": 1, "reason": "r"}}, "is a number, expected text"),
        ("POST", P + "/bundles/x:activate", {"json": WHO | {"author": ""}}, "body.author: is empty; give a text"),
        ("POST", P + "/bundles/x:activate", {"json": WHO | {"author": "a\n"}}, "a control character such as a tab"),
        ("POST", P + "/bundles/x:activate", {"json": {"autor": "a", "reason": "r"}}, "(did you mean `author`?)"),
        ("POST", P + "/bundles/x:activate", {"content": b'{"a', "headers": JSON}, "is not valid JSON at character"),
        ("POST", P + "/bundles/x:activate", {"content": b"author=a"}, "not declared as JSON (Content-Type: "),
        ("PUT", P + "/recipe", {"json": WHO | {"fail_treshold": 1}}, "(did you mean `fail_threshold`?)"),
        ("PUT", P + "/recipe", {"json": WHO | {"regions": {"min_area": 1}}}, "(did you mean `min_area_px`?)"),
        ("PUT", P + "/recipe", {"json": WHO | {"regions": 3}}, "is a number, expected an object with fields of these"),
        ("PUT", P + "/recipe", {"json": WHO | {"target_false_reject_rate": 2}}, "is not less than 1; give a number"),
        ("PUT", P + "/recipe", {"json": WHO | {"roi": [[[0, 0]]]}}, "has too few items (1); expected at least 3"),
        ("PUT", P + "/recipe", {"json": WHO | {"retention": {"pas": None}}}, "expected 'pass', 'review'"),
        ("PUT", P + "/recipe", {"content": b"[1", "headers": JSON}, "is not valid JSON: it ends too early at line 1"),
        ("PUT", P + "/recipe", {"json": WHO, "headers": {"if-match": "new"}}, "is not a revision; give its number"),
        ("PUT", P + "/recipe", {"content": b"[recip]", "headers": TOML, "params": WHO}, "(did you mean `recipe`?)"),
        ("PUT", P + "/recipe", {"content": b"[recipe]\nfail_treshold = 1", "headers": TOML, "params": WHO},
         "(did you mean `fail_threshold`?)"),
        ("PUT", P + "/recipe", {"content": b"[recipe.regions]\nmin_area = 1", "headers": TOML, "params": WHO},
         "(did you mean `min_area_px`?)"),
        ("PUT", P + "/recipe", {"content": b"[recipe.heatmap]\nlow = 'x'", "headers": TOML, "params": WHO},
         "heatmap.low: is not a number; give one such as 0.5"),
        ("PUT", P + "/recipe", {"content": b"[recipe\n", "headers": TOML, "params": WHO}, "line 1, column 8"),
        ("PUT", P + "/recipe", {"content": b"[recipe]", "headers": TOML}, "reason: is null, expected text"),
        ("POST", INSPECT, {"files": {"image": GOOD}, "data": {"part": "7"}}, "(did you mean `part_id`?)"),
        ("POST", INSPECT, {"files": {"image": GOOD}, "data": {"captured_at": "2026-01-01T00:00"}}, "has no time zone"),
        ("POST", INSPECT, {"content": GOOD, "headers": IMAGE, "params": {"captured_at": "now"}}, "a time in ISO 8601"),
        ("POST", INSPECT, {"content": GOOD, "headers": IMAGE, "params": {"lot": "x" * 200}}, "more than 128 character"),
        ("POST", INSPECT, {"content": GOOD, "headers": IMAGE | {"x-width": "wide"}}, "is not a whole number"),
        ("POST", INSPECT + ":batch", {"content": b"PK\x03\x04 and no more", "headers": ZIP}, "it is truncated: it be"),
        ("POST", INSPECT + ":batch", {"content": b"%PDF-1.7", "headers": ZIP}, "not a zip file but a PDF document"),
        ("POST", P + "/bundles", {"content": b"\x1f\x8b\x08", "headers": ZIP}, "not a zip file but a gzip file"),
    ],
)  # fmt: skip
def test_wrong_request_is_explained(
    service: RunningService, method: str, path: str, options: dict[str, Any], expected: str
) -> None:
    assert expected in sent(service, method, path, 422, **options)


def rezipped(bundle: Bundle, **changed: bytes | None) -> bytes:
    """Archive a bundle with files replaced or, for None, left out. Names are given without their suffix."""
    original, result = io.BytesIO(), io.BytesIO()
    write_archive(bundle, original)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(result, "w") as archive:
        for name in source.namelist():
            content = changed.get(name.partition(".")[0].replace("/", "_"), source.read(name))
            if content is not None:
                archive.writestr(name, content)
    return result.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def test_wrong_archive_is_explained(service: RunningService, tiny_bundle: Bundle) -> None:
    whole = rezipped(tiny_bundle)
    damaged = flipped(whole, whole.index(b"model.onnx") + 40)
    for content, expected in (
        (rezipped(tiny_bundle, model=None), "model.onnx is missing."),
        (rezipped(tiny_bundle, calibration=None), "calibration.json is missing."),
        (rezipped(tiny_bundle, manifest=None), "manifest.json is missing."),
        (rezipped(tiny_bundle, golden_00=None), "golden/00.npz is missing."),
        (rezipped(tiny_bundle, manifest=b'{\n "a": oops}'), "manifest.json is not valid JSON at line 2, column 7"),
        (rezipped(tiny_bundle, manifest=b"{}"), "manifest.json: product: is missing; it is required"),
        (rezipped(tiny_bundle, model=b"x"), "model.onnx is not the file that the manifest lists (it is truncated"),
        (whole[:-100], "it is truncated: it begins as a zip file, but its end is missing"),
        (damaged, "it is damaged: the checksum (CRC-32) of an entry is wrong."),
        (b"", "The request has no body."),
    ):
        assert expected in sent(service, "POST", P + "/bundles", 422, content=content, headers=ZIP), expected


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpeg(*, progressive: bool = False) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=90, progressive=progressive)
    return buffer.getvalue()


def tiff(compression: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(part()).save(buffer, "TIFF", compression=compression)
    return buffer.getvalue()


def damaged_images() -> Iterator[tuple[str, bytes]]:
    """Yield damaged images of every format; each is damaged at many places."""
    wholes = {
        "jpeg": jpeg(),
        "progressive jpeg": jpeg(progressive=True),
        "png": GOOD,
        "bmp": encode(part(), ".bmp"),
        "webp": encode(part(), ".webp"),
        "tiff lzw": tiff("tiff_lzw"),
        "tiff deflate": tiff("tiff_adobe_deflate"),
        "tiff packbits": tiff("packbits"),
        "tiff": tiff("raw"),
    }
    generator = np.random.default_rng(1)
    for name, whole in wholes.items():
        for _ in range(25):
            at = int(generator.integers(12, len(whole) - 1))
            yield name, whole[:at]
            yield name, flipped(whole, at)
            yield name, whole[:at] + bytes(generator.integers(0, 256, 4, np.uint8)) + whole[at + 4 :]
    huffman = jpeg()
    yield "jpeg without a Huffman table", huffman.replace(b"\xff\xc4", b"\xff\xef")
    yield "jpeg without a quantization table", huffman.replace(b"\xff\xdb", b"\xff\xef")
    yield "png with wrong data", GOOD[:33] + chunk(b"IDAT", b"no zlib data") + chunk(b"IEND", b"")


@pytest.mark.slow
def test_damaged_image_is_explained(service: RunningService) -> None:
    refused = 0
    for name, data in damaged_images():
        response = service.inspect(data)
        if response.status_code == 201:
            continue  # the damage is outside the pixels
        problem = response.json()
        refused += 1
        assert response.status_code in {413, 415, 422}, (name, problem)
        assert_own(json.dumps(problem))
    assert refused > 300


def test_graph_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    from service.bundle.errors import BundleInvalid
    from service.bundle.golden import GoldenSample
    from service.bundle.writer import write_bundle
    from service.inspection.runtime.isolation import IsolatedSelfTest, SelfTestLimits
    from service.inspection.runtime.session import SessionOptions

    draft = tiny_draft()
    refused = tiny_model(draft)
    refused.graph.node[-1].input.append("half")
    size, cells = draft.input.height, draft.map_height
    sample = GoldenSample(np.full((size, size, 3), 128, np.uint8), np.zeros((cells, cells), np.float32), None)

    def test_graph(model: bytes) -> None:
        bundle = write_bundle(tmp_path, draft=draft, model=model, card=tiny_card(), golden=[sample])
        IsolatedSelfTest(SelfTestLimits()).run(bundle, SessionOptions(provider="cpu", threads=1), max_batch=1)

    for model, expected in (
        (b"no graph at all", "model.onnx is not an ONNX graph, or it is truncated."),
        (tiny_model(draft).SerializeToString()[:-7], "model.onnx is not an ONNX graph, or it is truncated."),
        (refused.SerializeToString(), "an operator is not supported or its inputs do not fit. The operator is 'Add'."),
    ):
        with pytest.raises(BundleInvalid) as caught:
            test_graph(model)
        assert expected in caught.value.detail
        assert_own(caught.value.detail)


def test_golden_sample_that_cannot_be_read_is_explained(tiny_bundle: Bundle) -> None:
    from service.bundle.golden import GoldenSample

    whole = tiny_bundle.golden[0].to_bytes()
    shapes = tiny_bundle.golden[0].image.shape, tiny_bundle.golden[0].anomaly_map.shape
    buffer = io.BytesIO()
    np.savez(buffer, image=np.zeros(3), anomaly_map=np.zeros(3))
    changed = [flipped(whole, at) for at in range(0, len(whole), 3)]
    reasons: set[str] = set()
    for content in (b"", whole[:-50], b"no archive", buffer.getvalue(), *changed):
        try:
            GoldenSample.from_bytes(content, *shapes)
        except ValueError as error:
            reasons.add(str(error))
    for reason in reasons:
        assert reason.endswith(".")
        assert_own(reason)
    assert len(reasons) > 5
