"""Bundles that attack the service that loads them. Their hashes are right, so only their content can give them away."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.bundle import Bundle
from service.bundle.manifest import CARD, MANIFEST, MODEL
from tests.bundles import tiny_draft, tiny_model, write_tiny_bundle

GOLDEN = "golden/00.npz"


def contents_of(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a bundle by name."""
    return {name: bundle.read_file(name) for name in (MANIFEST, *bundle.manifest.files)}


def tiny_contents(scratch: Path, product: str, **changes: bytes) -> dict[str, bytes]:
    """Return the files of a tiny bundle with some files replaced and the manifest's hashes made right.

    Args:
        scratch: Folder for the unchanged bundle.
        product: Product of the bundle.
        changes: `model`, `card` or `golden`: the new content of the file.
    """
    contents = contents_of(write_tiny_bundle(scratch, product))
    names = {"model": MODEL, "card": CARD, "golden": GOLDEN}
    contents |= {names[key]: data for key, data in changes.items()}
    manifest = json.loads(contents[MANIFEST])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in contents.items()
        if name != MANIFEST
    }
    return contents | {MANIFEST: json.dumps(manifest).encode()}


def write_unchecked(models: Path, product: str, contents: Mapping[str, bytes]) -> Path:
    """Write the files of a bundle into a model repository, as copying the folder does."""
    folder = models / product / hashlib.sha256(contents[MANIFEST]).hexdigest()[:12]
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def archived(contents: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return the files as a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def looping_model(product: str, rounds: int = 2**62) -> bytes:
    """Return a graph that is right except for a `Loop` of so many rounds."""
    model = tiny_model(tiny_draft(product))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
            helper.make_node("Add", ["value_in", "value_in"], ["value_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_in", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, []),
        ],
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(rounds, np.int64), "rounds"),
            numpy_helper.from_array(np.array(True), "always"),
        ]
    )
    loop = helper.make_node("Loop", ["rounds", "always", "offset"], ["looped"], body=body)
    return _with_nodes_before_the_last(model, [loop], "looped")


def slow_model(product: str, size: int = 4096, products: int = 400) -> bytes:
    """Return a graph of allowed operators that multiplies matrices for many minutes."""
    model = tiny_model(tiny_draft(product))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([size, size], np.int64), "square"),
            numpy_helper.from_array(np.array([0, 1], np.int64), "both"),
        ]
    )
    filling = numpy_helper.from_array(np.array([1 / size], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["square"], ["ones"], value=filling),
        # The batch is in the product, so that the runtime cannot compute it in advance.
        helper.make_node("ReduceMean", ["distance"], ["mean"], keepdims=0),
        helper.make_node("Add", ["ones", "mean"], ["product0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"product{number}", "ones"], [f"product{number + 1}"]) for number in range(products)
    ]
    nodes.append(helper.make_node("ReduceMean", [f"product{products}", "both"], ["reduced"], keepdims=0))
    return _with_nodes_before_the_last(model, nodes, "reduced")


def large_model(product: str, gib: int = 64) -> bytes:
    """Return a graph of allowed operators that needs so much memory."""
    model = tiny_model(tiny_draft(product))
    model.graph.initializer.append(numpy_helper.from_array(np.array([gib, 2**28], np.int64), "space_wanted"))
    nodes = [
        helper.make_node("ReduceMean", ["distance"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "space_wanted"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["widest"], keepdims=0),
    ]
    return _with_nodes_before_the_last(model, nodes, "widest")


def golden_bomb(unpacked_bytes: int) -> bytes:
    """Return a golden sample whose image unpacks to so many bytes. The header of the array states them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("image.npy", "w", force_zip64=True) as file:
            file.write(npy_header("|u1", (unpacked_bytes,)))
            for _ in range(unpacked_bytes // 2**20):
                file.write(bytes(2**20))
        archive.writestr("anomaly_map.npy", npy_header("<f4", (16, 16)) + bytes(16 * 16 * 4))
    return buffer.getvalue()


def golden_claim(stated_bytes: int) -> bytes:
    """Return a golden sample whose array header states so many bytes, of which there are none."""
    return archived({"image.npy": npy_header("|u1", (stated_bytes,)), "anomaly_map.npy": b""})


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an `.npy` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _with_nodes_before_the_last(model: onnx.ModelProto, nodes: list[onnx.NodeProto], offset: str) -> bytes:
    """Insert nodes before the last one, which adds `offset` to the map, and let it add their result instead."""
    last = model.graph.node.pop()
    last.input[1] = offset
    model.graph.node.extend([*nodes, last])
    return bytes(model.SerializeToString())
