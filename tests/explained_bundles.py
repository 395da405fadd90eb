"""Tiny bundles whose maps can be explained: two sources, one of them a memory bank with four prototypes.

A cell of 4 x 4 pixels adds a quarter of its distance from mid-gray; a cell of the bank, 8 x 8 pixels, adds three
quarters of its distance from the nearest of four gray values. The tail of the graph doubles the sum. Every expected
value can be computed by hand.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.bundle import Bundle
from service.bundle.golden import GoldenSample
from service.bundle.manifest import (
    BankTensors,
    Explanation,
    ManifestDraft,
    ScoreRule,
    SourceTensors,
    graph_metadata,
)
from service.bundle.origins import OriginImage, OriginIndex, Origins, OriginView
from service.bundle.writer import write_bundle
from service.inspection.heatmap import encode
from tests.bundles import CELL, SIZE, part, tiny_card, tiny_draft

BANK_CELL = 8
BANK_CELLS = SIZE // BANK_CELL
GRAYS = (128, 115, 140, 153)
"""Gray values of the prototypes, which are those of the good images that they come from."""
PLACES = ((0, 0), (2, 5), (7, 7), (4, 1))
"""Row and column of each prototype in its image."""
SHARES = (0.25, 0.75)
EXPLANATION = Explanation(
    total="explain_total",
    sources=[
        SourceTensors(name="level", tensor="explain_level"),
        SourceTensors(name="bank", tensor="explain_bank"),
    ],
    banks=[
        BankTensors(
            name="bank",
            candidates="explain_bank_candidates",
            nearest="highest",
            distances="explain_bank_distances",
            rows=BANK_CELLS,
            columns=BANK_CELLS,
            prototypes=len(GRAYS),
        )
    ],
)


def explained_draft(product: str = "widget", **changes: Any) -> ManifestDraft:
    """Return a manifest draft for the graph."""
    values = {"explanation": EXPLANATION, "method": "gray-bank", "score_rule": ScoreRule(fraction=0.01)}
    return tiny_draft(product, **(values | changes))


def explained_model(draft: ManifestDraft, *, squared: bool = False) -> onnx.ModelProto:
    """Return the graph.

    Args:
        draft: Its essential values become the graph's metadata.
        squared: Square the sum of the sources in the tail, so that the map is not linear in them.
    """
    constants: dict[str, npt.NDArray[Any]] = {
        "scale": np.array(255, np.float32),
        "half": np.array(0.5, np.float32),
        "level_share": np.array(SHARES[0], np.float32),
        "bank_share": np.array(SHARES[1], np.float32),
        "two": np.array(2, np.float32),
        "colour": np.array([1], np.int64),
        "column": np.array([-1, 1], np.int64),
        "grid": np.array([-1, 1, BANK_CELLS, BANK_CELLS], np.int64),
        "prototypes": np.array([[gray / 255 for gray in GRAYS]], np.float32),
        "none": np.array([], np.float32),
        "factors": np.array([1, 1, 2, 2], np.float32),
    }
    make = helper.make_node
    nodes = [
        make("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        make("Div", ["float", "scale"], ["unit"]),
        make("Transpose", ["unit"], ["nchw"], perm=[0, 3, 1, 2]),
        make("ReduceMean", ["nchw", "colour"], ["gray"], keepdims=1),
        make("AveragePool", ["gray"], ["fine"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        make("Sub", ["fine", "half"], ["signed"]),
        make("Abs", ["signed"], ["distance"]),
        make("Mul", ["distance", "level_share"], ["explain_level"]),
        make("AveragePool", ["gray"], ["coarse"], kernel_shape=[BANK_CELL] * 2, strides=[BANK_CELL] * 2),
        make("Reshape", ["coarse", "column"], ["cells"]),
        make("Sub", ["cells", "prototypes"], ["differences"]),
        make("Abs", ["differences"], ["all_distances"]),
        make("Neg", ["all_distances"], ["explain_bank_candidates"]),
        make("ReduceMin", ["all_distances", "colour"], ["nearest"], keepdims=0),
        make("Reshape", ["nearest", "grid"], ["explain_bank_distances"]),
        make("Resize", ["explain_bank_distances", "none", "factors"], ["enlarged"], mode="nearest"),
        make("Mul", ["enlarged", "bank_share"], ["explain_bank"]),
        make("Add", ["explain_level", "explain_bank"], ["explain_total"]),
        make("Mul", ["explain_total", "explain_total" if squared else "two"], ["doubled"]),
        make("Squeeze", ["doubled", "colour"], ["anomaly_map"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gray-bank",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", SIZE // CELL, SIZE // CELL])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, graph_metadata(draft))
    return model


def expected_parts(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what both sources add to the map of an input of the graph, float32 [h, w] each."""
    gray = image.astype(np.float32).mean(axis=2) / 255

    def pooled(cell: int) -> npt.NDArray[np.float32]:
        cells = SIZE // cell
        return np.asarray(gray.reshape(cells, cell, cells, cell).mean(axis=(1, 3)), np.float32)

    level = 2 * SHARES[0] * np.abs(pooled(CELL) - 0.5)
    differences = np.abs(pooled(BANK_CELL)[..., None] - np.array(GRAYS, np.float32) / 255)
    bank = 2 * SHARES[1] * differences.min(axis=-1).repeat(2, axis=0).repeat(2, axis=1)
    return np.asarray(level, np.float32), np.asarray(bank, np.float32)


def gray_origins(jpeg_side: int = SIZE) -> Origins:
    """Return the origins of the prototypes: one plain gray image for each, with known days for two of them."""
    days = {0: date(2026, 3, 1), 1: date(2026, 3, 2)}
    jpegs = [encode(part(width=jpeg_side, height=jpeg_side, brightness=gray), "image/jpeg", 90) for gray in GRAYS]
    images = [
        OriginImage(
            name=f"good/{gray}.png",
            sha256=f"{number:064x}",
            width=2 * SIZE,
            height=SIZE,
            captured_on=days.get(number),
            dated_by="name" if number in days else None,
        )
        for number, gray in enumerate(GRAYS)
    ]
    starts = np.cumsum([0, *map(len, jpegs)])
    views = [
        OriginView(image=number, box=(0, 0, 1, 1), start=int(starts[number]), bytes=len(jpeg))
        for number, jpeg in enumerate(jpegs)
    ]
    bank = np.array([(number, *place) for number, place in enumerate(PLACES)], np.int32)
    return Origins(OriginIndex(images=images, views=views), b"".join(jpegs), {"bank": bank})


def write_explained_bundle(
    models: Path, product: str = "widget", *, origins: Origins | None = None, squared: bool = False, **changes: Any
) -> Bundle:
    """Write a bundle whose maps can be explained. `changes` replace fields of the manifest."""
    draft = explained_draft(product, **changes)
    golden = []
    for image in (part(), part(spot=(20, 30, 8))):
        total = sum(expected_parts(image))
        golden.append(GoldenSample(image, np.asarray((total / 2) ** 2 if squared else total, np.float32), None))
    return write_bundle(
        models,
        draft=draft,
        model=explained_model(draft, squared=squared).SerializeToString(),
        card=tiny_card(),
        golden=golden,
        origins=origins,
    )
