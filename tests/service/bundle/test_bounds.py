"""Content that is made to exhaust memory or time is refused before it does."""

from __future__ import annotations

import io
import json
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.faults.hostile_bundles import (
    archived,
    golden_bomb,
    golden_claim,
    looping_model,
    npy_header,
    tiny_contents,
    write_unchecked,
)
from service.bundle import bundle as bundle_module
from service.bundle.archive import import_archive, read_archive
from service.bundle.bundle import Bundle, bundle_folders, read_manifest
from service.bundle.card import CalibrationCard
from service.bundle.errors import BundleArchiveInvalid, BundleInvalid, BundleSchema
from service.bundle.golden import GoldenSample
from service.bundle.graph import MAX_STRUCTURE_BYTES
from service.bundle.manifest import CARD, MANIFEST
from service.bundle.wire import StructureTooLarge, check_structure
from service.bundle.writer import write_bundle
from tests.bundles import tiny_card, tiny_draft, tiny_golden, tiny_model

LIMIT = 64 * 2**20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def golden_with(**arrays: bytes) -> bytes:
    good = {"image.npy": npy_header("|u1", (64, 64, 3)) + bytes(64 * 64 * 3)}
    good["anomaly_map.npy"] = npy_header("<f4", (16, 16)) + bytes(16 * 16 * 4)
    return archived(good | {f"{name}.npy": data for name, data in arrays.items()})


@pytest.mark.parametrize(
    "golden",
    [
        golden_bomb(64 * 2**20),
        golden_claim(120 * 10**9),
        golden_with(image=npy_header("|u1", (64, 64, 3)) + bytes(64 * 64 * 3 + 1)),
        golden_with(image=npy_header("|u1", (64, 64, 3)) + bytes(64 * 64 * 3 - 1)),
        golden_with(image=npy_header("|O", (64, 64, 3)) + bytes(64 * 64 * 3)),
        golden_with(image=npy_header("<f8", (64, 64, 3)) + bytes(64 * 64 * 3)),
        golden_with(image=npy_header("|u1", (3, 64, 64)) + bytes(64 * 64 * 3)),
        golden_with(score_gain=npy_header("<f4", (1, 10**11))),
        golden_with(another=b"x"),
        golden_with(image=b"\x93NUMPY\x02\x00" + bytes(200)),
        golden_with(image=b"\x93NUMPY\x01\x00\xff\xff{'descr': " + b"(" * 900),
        golden_with(image=b"x"),
        archived({"image.npy": npy_header("|u1", (64, 64, 3)) + bytes(64 * 64 * 3)}),
        b"no zip file",
    ],
)
def test_golden_sample_of_another_size_than_the_input_is_refused(tmp_path: Path, golden: bytes) -> None:
    contents = tiny_contents(tmp_path / "scratch", "widget", golden=golden)
    before = peak_bytes()
    with pytest.raises(BundleSchema, match=r"golden/00\.npz"):
        Bundle.load(write_unchecked(tmp_path / "models", "widget", contents))
    with pytest.raises(BundleSchema, match=r"golden/00\.npz"):
        import_archive(tmp_path / "models", "widget", io.BytesIO(archived(contents)), LIMIT)
    assert peak_bytes() - before < 32 * 2**20


def test_golden_sample_is_read_as_it_was_written() -> None:
    for sample in (*tiny_golden(), *tiny_golden(gain=True)):
        again = GoldenSample.from_bytes(sample.to_bytes(), (64, 64, 3), (16, 16))
        np.testing.assert_array_equal(again.image, sample.image)
        np.testing.assert_array_equal(again.anomaly_map, sample.anomaly_map)
        assert again.score_gain == (None if sample.score_gain is None else np.float32(sample.score_gain))


def test_golden_samples_that_are_too_large_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_unchecked(tmp_path / "models", "widget", tiny_contents(tmp_path / "scratch", "widget"))
    monkeypatch.setattr(bundle_module, "MAX_GOLDEN_BYTES", 20_000)
    with pytest.raises(BundleSchema, match="2 golden samples take"):
        Bundle.load(path)


def padded_manifest(contents: dict[str, bytes], size: int) -> dict[str, bytes]:
    manifest = json.loads(contents[MANIFEST])
    manifest["training"]["config"] = {"note": "x" * size}
    return contents | {MANIFEST: json.dumps(manifest).encode()}


def test_manifest_of_more_than_a_megabyte_is_refused(tmp_path: Path) -> None:
    contents = tiny_contents(tmp_path / "scratch", "widget")
    Bundle.load(write_unchecked(tmp_path / "models", "widget", padded_manifest(contents, 10**6)))
    large = padded_manifest(contents, 2**20)
    path = write_unchecked(tmp_path / "models", "nut", large)
    with pytest.raises(BundleSchema, match=r"manifest\.json is larger than 1048576 bytes"):
        Bundle.load(path)
    assert bundle_folders(path.parent) == [path], "listed without being read"
    with pytest.raises(BundleArchiveInvalid, match=r"'manifest\.json' is larger"):
        import_archive(tmp_path / "models", "widget", io.BytesIO(archived(large)), LIMIT)


def test_card_is_bounded_in_size_and_checked_in_linear_time(tmp_path: Path) -> None:
    contents = tiny_contents(tmp_path / "scratch", "widget", card=b" " * (8 * 2**20 + 1))
    with pytest.raises(BundleSchema, match=r"calibration\.json has"):
        Bundle.load(write_unchecked(tmp_path / "models", "widget", contents))
    with pytest.raises(BundleArchiveInvalid, match=r"'calibration\.json' is larger"):
        read_archive(io.BytesIO(archived(contents)), LIMIT)
    count = 50_000
    groups = [{"name": "", "count": 1}] * count
    values = tiny_card().model_dump() | {"scores": [0.0] * count, "groups": groups, "group_of_score": [*range(count)]}
    since = time.perf_counter()
    CalibrationCard.model_validate(values)
    assert time.perf_counter() - since < 5


def test_file_that_is_larger_than_the_manifest_says_is_not_read(tmp_path: Path) -> None:
    contents = tiny_contents(tmp_path / "scratch", "widget")
    path = write_unchecked(tmp_path / "models", "widget", contents)
    with (path / CARD).open("ab") as file:
        file.truncate(50 * 2**30)  # a sparse file
    with pytest.raises(BundleInvalid, match=r"calibration\.json is not the file"):
        Bundle.load(path)


@pytest.mark.parametrize("function", ["check_graph", "read_golden", "_parse", "read_verified"])
def test_lack_of_memory_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = write_unchecked(tmp_path / "models", "widget", tiny_contents(tmp_path / "scratch", "widget"))
    bundle = Bundle.load(path)

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Bundle if function == "read_golden" else bundle_module, function, exhausted)
    with pytest.raises(BundleInvalid, match="more memory than is available"):
        Bundle.load(path)
    if function == "_parse":
        with pytest.raises(BundleInvalid, match="more memory than is available"):
            read_manifest(path)
    if function == "_read_verified":
        with pytest.raises(BundleInvalid, match="more memory than is available"):
            bundle.read_model()


def test_lack_of_memory_while_unpacking_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("service.bundle.archive.unpack", exhausted)
    archive = archived(tiny_contents(tmp_path, "widget"))
    with pytest.raises(BundleArchiveInvalid, match="more memory than is available"):
        read_archive(io.BytesIO(archive), LIMIT)


def with_nodes(*nodes: onnx.NodeProto, domain: str = "") -> onnx.ModelProto:
    model = tiny_model(tiny_draft())
    last = model.graph.node.pop()
    model.graph.node.extend([*nodes, last])
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def looping() -> onnx.ModelProto:
    return onnx.load_model_from_string(looping_model("widget"))


def branching() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("half", TensorProto.FLOAT, [])
    branch = helper.make_graph([], "branch", [], [value])
    return with_nodes(helper.make_node("If", ["half"], ["chosen"], then_branch=branch, else_branch=branch))


def scanning() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [value], [value])
    return with_nodes(helper.make_node("Scan", ["distance"], ["scanned"], body=body, num_scan_inputs=1))


def hidden_in_a_function() -> onnx.ModelProto:
    model = with_nodes(helper.make_node("Double", ["half"], ["twice"], domain="local"), domain="local")
    body = [helper.make_node("Add", ["x", "x"], ["y"])]
    model.functions.append(helper.make_function("local", "Double", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    return model


def body_on_an_allowed_operator() -> onnx.ModelProto:
    model = with_nodes(helper.make_node("Abs", ["half"], ["again"]))
    body = helper.make_graph([], "body", [], [])
    model.graph.node[-2].attribute.append(helper.make_attribute("body", body))
    return model


def sized_by_pixels(operator: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        nodes = [
            helper.make_node("ReduceMax", ["float"], ["brightest"], keepdims=0),
            helper.make_node("Cast", ["brightest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["whole", "colour"], ["wanted"]),
        ]
        inputs = {"ConstantOfShape": ["wanted"], "Range": ["one", "whole", "one"]}.get(operator, ["half", "wanted"])
        return with_nodes(*nodes, helper.make_node(operator, inputs, ["large"]))

    return build


def operator(name: str, domain: str = "") -> Callable[[], onnx.ModelProto]:
    return lambda: with_nodes(helper.make_node(name, ["half"], ["other"], domain=domain), domain=domain)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (looping, "'Loop', which is not allowed"),
        (branching, "'If', which is not allowed"),
        (scanning, "'Scan', which is not allowed"),
        (hidden_in_a_function, "function 'Double'"),
        (body_on_an_allowed_operator, "'Abs', which is not allowed"),
        (operator("SequenceMap"), "'SequenceMap', which is not allowed"),
        (operator("NonZero"), "'NonZero', which is not allowed"),
        (operator("RandomNormalLike"), "'RandomNormalLike', which is not allowed"),
        (operator("DynamicQuantizeLinear"), "'DynamicQuantizeLinear', which is not allowed.*no dynamic quantisation"),
        (operator("FusedConv", "com.microsoft"), "domain 'com.microsoft'"),
        *((sized_by_pixels(name), "from the pixels") for name in ("Expand", "Tile", "ConstantOfShape", "Range")),
    ],
)
def test_graph_whose_work_is_not_bounded_is_refused(
    tmp_path: Path, build: Callable[[], onnx.ModelProto], reason: str
) -> None:
    model = build().SerializeToString()
    with pytest.raises(BundleSchema, match=reason):
        write_bundle(tmp_path, draft=tiny_draft(), model=model, card=tiny_card(), golden=tiny_golden())
    assert list(tmp_path.iterdir()) == []


def test_sizes_from_the_batch_are_allowed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], start=0, end=1),
        helper.make_node("Expand", ["half", "shape"], ["halves"]),
    ]
    model = with_nodes(*nodes).SerializeToString()
    write_bundle(tmp_path, draft=tiny_draft(), model=model, card=tiny_card(), golden=tiny_golden())


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        message(7, b"\x0a\x00" * 50_000_000),  # empty nodes: about 100 bytes each in memory
        b"\x0a\x00" * 50_000_000,
        message(7, b"\x2a\x00" * 50_000_000),  # empty initialisers
        message(7, message(5, b"\x4a\x00" * 50_000_000)),  # empty raw data
        message(7, message(5, message(7, bytes(10**8)))),  # integers of one byte, eight in memory
        message(20, bytes(10**8)),
    ],
)
def test_graph_that_grows_when_it_is_parsed_is_refused_before(model: bytes) -> None:
    before, since = peak_bytes(), time.perf_counter()
    with pytest.raises(StructureTooLarge):
        check_structure(model, MAX_STRUCTURE_BYTES)
    assert time.perf_counter() - since < 60  # half a second on an idle machine
    assert peak_bytes() - before < 16 * 2**20


@pytest.mark.parametrize("model", [b"\xff", b"\x0a\x05x", b"\x0b", b"\x08" + b"\xff" * 20, b"\x3d\x00"])
def test_what_is_not_protobuf_is_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_structure(model, MAX_STRUCTURE_BYTES)


def test_weights_do_not_count_as_structure() -> None:
    model = tiny_model(tiny_draft())
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2**20, np.float32), "weights"))
    data: Any = model.SerializeToString()
    check_structure(data, 4096)
    with pytest.raises(StructureTooLarge):
        check_structure(data, 512)


def test_zip_in_a_zip_is_not_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image.npy/", b"")
    with pytest.raises(ValueError, match="unknown"):
        GoldenSample.from_bytes(buffer.getvalue(), (64, 64, 3), (16, 16))
