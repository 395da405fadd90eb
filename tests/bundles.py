"""Tiny bundles made with the onnx package alone, so that the service's tests need neither torch nor training.

The graph returns the distance of each 4 x 4 patch from mid-gray: a gray part is good, a bright or dark spot is a
defect, and every expected value can be computed by hand.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard, CalibrationGroup, MeasureRange, QualityStatistics
from service.bundle.golden import GoldenSample
from service.bundle.images import ImageHashes
from service.bundle.manifest import InputGeometry, ManifestDraft, Parity, ScoreRule, TrainingRecord, graph_metadata
from service.bundle.writer import write_bundle

SIZE = 64
CELL = 4
# Scores of 99 held-out good images: they can certify a false-reject rate of exactly 1 %.
SCORES = [0.01 + 0.0005 * rank for rank in range(99)]


def tiny_draft(product: str = "widget", **changes: Any) -> ManifestDraft:
    """Return a manifest draft for the tiny graph."""
    values: dict[str, Any] = {
        "product": product,
        "method": "gray-distance",
        "teachers": ["none"],
        "input": InputGeometry(height=SIZE, width=SIZE),
        "map_height": SIZE // CELL,
        "map_width": SIZE // CELL,
        "score_rule": ScoreRule(fraction=0.01),
        "parity": Parity(tolerance=1e-3, measured=0.0, provider="cpu"),
        "training": TrainingRecord(
            images=1, held_out=len(SCORES), fingerprint="0" * 64, seed=0, iterations=0, seconds=0.0, config={}
        ),
        "libraries": {"onnx": onnx.__version__},
        "git_revision": None,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return ManifestDraft(**(values | changes))


def tiny_quality(**ranges: tuple[float, float]) -> QualityStatistics:
    """Return statistics of good images under which no image is invalid, except for the given ranges."""
    anything = {
        "brightness": (0.0, 255.0),
        "dark_share": (0.0, 1.0),
        "bright_share": (0.0, 1.0),
        "sharpness": (0.0, 1e6),
        "contrast": (0.0, 128.0),
    }
    chosen = (anything | ranges).items()
    named = {name: MeasureRange(low=low, median=(low + high) / 2, high=high) for name, (low, high) in chosen}
    return QualityStatistics(images=len(SCORES), **named)


ANY_QUALITY = tiny_quality()


def tiny_card(scores: Sequence[float] = SCORES, quality: QualityStatistics | None = ANY_QUALITY) -> CalibrationCard:
    """Return a calibration card with known scores."""
    return CalibrationCard(
        provider="cpu",
        scores=sorted(scores),
        groups=[CalibrationGroup(name="all", count=len(scores))],
        grouped_by="none",
        map_median=0.002,
        map_q99=0.01,
        quality=quality,
    )


def tiny_model(
    draft: ManifestDraft, *, gain: bool = False, offset: float = 0.0, fails_on_black: bool = False
) -> onnx.ModelProto:
    """Return the gray-distance graph: mean over colour and 4 x 4 patches, then distance to 0.5.

    Args:
        draft: Its essential values become the graph's metadata.
        gain: Add the output `score_gain`, which is 1 plus the map's maximum.
        offset: Added to every cell, to make a graph that fails its self-test.
        fails_on_black: Compute NaN where a patch is black.
    """
    constants: dict[str, npt.NDArray[Any]] = {
        "scale": np.array(255, np.float32),
        "half": np.array(0.5, np.float32),
        "offset": np.array(offset, np.float32),
        "one": np.array(1, np.float32),
        "colour": np.array([1], np.int64),
        "space": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["nchw", "colour"], ["gray"], keepdims=1),
        helper.make_node("AveragePool", ["gray"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Sub", ["pooled", "half"], ["signed"]),
        helper.make_node("Abs", ["signed"], ["distance"]),
        helper.make_node("Squeeze", ["distance", "colour"], ["plain"]),
        helper.make_node("Add", ["plain", "offset"], ["anomaly_map"]),
    ]
    if fails_on_black:  # log(0) is minus infinity, and zero times that is NaN
        constants["zero"] = np.array(0, np.float32)
        nodes[-2:] = [
            helper.make_node("Log", ["pooled"], ["log"]),
            helper.make_node("Mul", ["log", "zero"], ["nothing"]),
            helper.make_node("Add", ["distance", "nothing"], ["fragile"]),
            helper.make_node("Squeeze", ["fragile", "colour"], ["plain"]),
            helper.make_node("Add", ["plain", "offset"], ["anomaly_map"]),
        ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])
    cells = SIZE // CELL
    outputs = [helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", cells, cells])]
    if gain:
        nodes += [
            helper.make_node("ReduceMax", ["anomaly_map", "space"], ["peak"], keepdims=0),
            helper.make_node("Add", ["peak", "one"], ["score_gain"]),
        ]
        outputs.append(helper.make_tensor_value_info("score_gain", TensorProto.FLOAT, ["N"]))
    initialisers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "gray-distance", [image], outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, graph_metadata(draft))
    return model


def tiny_golden(*, gain: bool = False) -> list[GoldenSample]:
    """Return a good and a defective prepared image with the maps that numpy computes for them."""
    return [_golden(part(), gain=gain), _golden(part(spot=(20, 30, 8)), gain=gain)]


def part(
    *, width: int = SIZE, height: int = SIZE, spot: tuple[int, int, int] | None = None, brightness: int = 128
) -> npt.NDArray[np.uint8]:
    """Return a gray part, uint8 [height, width, 3]; `spot` = (x, y, size) is a white defect."""
    image = np.full((height, width, 3), brightness, np.uint8)
    if spot is not None:
        x, y, size = spot
        image[y : y + size, x : x + size] = 255
    return image


def write_tiny_bundle(
    models: Path,
    product: str = "widget",
    *,
    scores: Sequence[float] = SCORES,
    gain: bool = False,
    offset: float = 0.0,
    fails_on_black: bool = False,
    quality: QualityStatistics | None = ANY_QUALITY,
    card: Mapping[str, Any] | None = None,
    images: ImageHashes | None = None,
    **changes: Any,
) -> Bundle:
    """Write a bundle that can be served, or with `offset` one that fails its parity self-test.

    `card` and `changes` replace fields of the card and of the manifest.
    """
    draft = tiny_draft(product, **changes)
    model = tiny_model(draft, gain=gain, offset=offset, fails_on_black=fails_on_black).SerializeToString()
    full = CalibrationCard.model_validate(tiny_card(scores, quality).model_dump() | dict(card or {}))
    return write_bundle(models, draft=draft, model=model, card=full, golden=tiny_golden(gain=gain), images=images)


def _golden(image: npt.NDArray[np.uint8], *, gain: bool) -> GoldenSample:
    cells = SIZE // CELL
    gray = image.astype(np.float32).mean(axis=2) / 255
    anomaly_map = np.abs(gray.reshape(cells, CELL, cells, CELL).mean(axis=(1, 3)) - 0.5).astype(np.float32)
    return GoldenSample(image, anomaly_map, 1 + float(anomaly_map.max()) if gain else None)
