"""Explanations of maps: contributions and nearest prototypes as computed by hand, tiles, refusals, patches."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from service.bundle.bundle import Bundle
from service.bundle.manifest import InputGeometry, Tiling
from service.inspection.errors import ExplanationDiffers, NoExplanation
from service.inspection.explanation import graph as explanation_graph
from service.inspection.explanation.explainer import WHOLE, Box, CellExplanation, Explainer
from service.inspection.explanation.graph import add_outputs
from service.inspection.explanation.patches import CONTEXT_CELLS, MAX_SIDE, cut_patch
from service.inspection.inspector import Inspector
from service.inspection.runtime.session import GraphSession, SessionOptions
from service.inspection.tiling import prepare_input
from tests.bundles import CELL, SIZE, part, write_tiny_bundle
from tests.explained_bundles import (
    BANK_CELL,
    BANK_CELLS,
    EXPLANATION,
    GRAYS,
    expected_parts,
    explained_draft,
    explained_model,
    write_explained_bundle,
)
from tests.running_service import encode

SPOT = part(spot=(20, 30, 8))


def stored(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(sum(expected_parts(image)), np.float32)


def explain(
    explainer: Explainer, image: npt.NDArray[np.uint8], stored_map: npt.NDArray[np.float32], cell: tuple[int, int]
) -> CellExplanation:
    """Explain a cell of an image."""
    prepared = prepare_input(image, explainer.bundle.manifest.input)
    return explainer.explain(prepared, (image.shape[0], image.shape[1]), stored_map, cell)


def shaded() -> npt.NDArray[np.uint8]:
    """Return an image whose cells are nearest to different prototypes."""
    rng = np.random.default_rng(0)
    cells = rng.integers(100, 170, (BANK_CELLS, BANK_CELLS, 1), np.uint8)
    return np.asarray(cells.repeat(BANK_CELL, 0).repeat(BANK_CELL, 1).repeat(3, 2), np.uint8)


def test_contributions_are_those_computed_by_hand_and_add_up_to_the_map(tmp_path: Path) -> None:
    level, bank = expected_parts(SPOT)
    with Explainer(write_explained_bundle(tmp_path)) as explainer:
        for cell in ((8, 6), (0, 0), (15, 15)):
            found = explain(explainer, SPOT, stored(SPOT), cell)
            values = {one.source: one.value for one in found.contributions}
            assert values == pytest.approx({"level": level[cell], "bank": bank[cell]}, abs=1e-6)
            assert found.value == pytest.approx(level[cell] + bank[cell], abs=1e-6)
            assert (found.row, found.column) == cell
            assert found.box == Box(cell[1] / 16, cell[0] / 16, 1 / 16, 1 / 16)
            assert [one.value for one in found.contributions] == sorted(values.values(), reverse=True)


def test_nearest_prototype_is_that_of_an_exhaustive_search(tmp_path: Path) -> None:
    image = shaded()
    seen = set()
    with Explainer(write_explained_bundle(tmp_path)) as explainer:
        for row in range(0, SIZE // CELL, 3):
            for column in range(0, SIZE // CELL, 3):
                (nearest,) = explain(explainer, image, stored(image), (row, column)).nearest
                gray = int(image[row * CELL, column * CELL, 0])
                distances = [abs(gray - one) / 255 for one in GRAYS]
                assert nearest.distance == pytest.approx(min(distances), abs=1e-6)
                assert distances[nearest.prototype] == pytest.approx(min(distances))
                assert (nearest.row, nearest.column) == (row // 2, column // 2)
                assert nearest.box == WHOLE.part(row // 2, column // 2, BANK_CELLS, BANK_CELLS)
                seen.add(nearest.prototype)
    assert len(seen) == len(GRAYS), "the image should be nearest to each of them somewhere"


def test_lowest_value_is_the_nearest_where_the_manifest_states_so(tmp_path: Path) -> None:
    bank = EXPLANATION.banks[0].model_copy(update={"candidates": "all_distances", "nearest": "lowest"})
    image = shaded()
    highest = write_explained_bundle(tmp_path)
    lowest = write_explained_bundle(tmp_path, explanation=EXPLANATION.model_copy(update={"banks": [bank]}))
    with Explainer(highest) as first, Explainer(lowest) as second:
        for cell in ((0, 0), (7, 9), (15, 2)):
            ours, theirs = (explain(one, image, stored(image), cell).nearest[0] for one in (first, second))
            assert (ours.prototype, ours.distance) == (theirs.prototype, theirs.distance)


def test_graph_that_inspects_has_no_further_outputs_and_the_same_map() -> None:
    model = explained_model(explained_draft()).SerializeToString()
    options = SessionOptions(provider="cpu", threads=1)
    extended, contributions = add_outputs(model, EXPLANATION)
    plain, explained = (GraphSession(one, options).run_named(SPOT[None]) for one in (model, extended))
    assert plain.keys() == {"anomaly_map"}
    assert {"anomaly_map", *contributions} < explained.keys()
    np.testing.assert_allclose(explained["anomaly_map"], plain["anomaly_map"], rtol=1e-6)


def test_map_other_than_the_stored_one_is_not_explained(tmp_path: Path) -> None:
    bundle = write_explained_bundle(tmp_path)
    within, beyond = stored(SPOT), stored(SPOT)
    within[3, 3] += 0.0005 * within.max()
    beyond[3, 3] += 0.002 * beyond.max()
    with Explainer(bundle) as explainer:
        explain(explainer, SPOT, within, (8, 6))
        for other in (beyond, stored(part()), stored(SPOT)[:8]):
            with pytest.raises(ExplanationDiffers, match="at most 1e-03 is allowed"):
                explain(explainer, SPOT, other, (7, 6))


def test_contributions_that_do_not_add_up_are_not_shown(tmp_path: Path) -> None:
    bundle = write_explained_bundle(tmp_path, squared=True)
    square = np.asarray((stored(SPOT) / 2) ** 2, np.float32)
    with Explainer(bundle) as explainer, pytest.raises(ExplanationDiffers, match="sum of its sources"):
        explain(explainer, SPOT, square, (8, 6))


def test_bundle_that_cannot_explain_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoExplanation, match="trained before explanations were stored"):
        Explainer(write_tiny_bundle(tmp_path, "plain"))
    bank = EXPLANATION.banks[0].model_copy(update={"rows": 3})
    other = write_explained_bundle(tmp_path, explanation=EXPLANATION.model_copy(update={"banks": [bank]}))
    with Explainer(other) as explainer, pytest.raises(NoExplanation, match="another number of cells"):
        explain(explainer, SPOT, stored(SPOT), (8, 6))
    fewer = EXPLANATION.banks[0].model_copy(update={"prototypes": 1})
    other = write_explained_bundle(tmp_path, explanation=EXPLANATION.model_copy(update={"banks": [fewer]}))
    with Explainer(other) as explainer, pytest.raises(NoExplanation, match="more prototypes"):
        explain(explainer, SPOT, stored(SPOT), (8, 6))
    sources = EXPLANATION.sources[0].model_copy(update={"tensor": "coarse"}), EXPLANATION.sources[1]
    other = write_explained_bundle(tmp_path, explanation=EXPLANATION.model_copy(update={"sources": list(sources)}))
    with Explainer(other) as explainer, pytest.raises(NoExplanation, match="another shape than the map"):
        explain(explainer, SPOT, stored(SPOT), (8, 6))
    sources = EXPLANATION.sources[0].model_copy(update={"tensor": "unit"}), EXPLANATION.sources[1]
    other = write_explained_bundle(tmp_path, explanation=EXPLANATION.model_copy(update={"sources": list(sources)}))
    with pytest.raises(NoExplanation, match="ONNX Runtime cannot run it"), Explainer(other) as explainer:
        explain(explainer, SPOT, stored(SPOT), (8, 6))
    bundle = write_explained_bundle(tmp_path)
    monkeypatch.setattr(explanation_graph, "MAX_TAIL_NODES", 1)
    with pytest.raises(NoExplanation, match="more than 1 nodes follow"):
        Explainer(bundle)


def tiled(models: Path) -> Bundle:
    geometry = InputGeometry(height=SIZE, width=SIZE, tiling=Tiling(overlap=16))
    return write_explained_bundle(models, input=geometry)


def test_cells_of_a_tiled_image_are_explained_by_the_tiles_that_cover_them(tmp_path: Path) -> None:
    bundle = tiled(tmp_path)
    image = part(width=150, height=100, spot=(60, 40, 9))
    inspector = Inspector.load(bundle.path)
    try:
        anomaly_map = inspector.measure(encode(image)).anomaly_map
    finally:
        inspector.close()
    assert anomaly_map.shape == (25, 38)
    with Explainer(bundle) as explainer:
        # In one tile, in the overlap of two and of four, and at the last row and column.
        for cell in ((0, 0), (2, 13), (10, 16), (13, 14), (24, 37), (24, 0)):
            found = explain(explainer, image, anomaly_map, cell)
            assert found.value == pytest.approx(float(anomaly_map[cell]), rel=1e-5)
            assert sum(one.value for one in found.contributions) == pytest.approx(found.value, rel=1e-5)
            # The cell of the bank contains the middle of the cell of the map.
            x, y = found.box.left + found.box.width / 2, found.box.top + found.box.height / 2
            (nearest,) = found.nearest
            assert nearest.box.left - 0.01 <= x <= nearest.box.left + nearest.box.width + 0.01
            assert nearest.box.top - 0.01 <= y <= nearest.box.top + nearest.box.height + 0.01
        other = anomaly_map.copy()
        other[10, 16] *= 1.01
        with pytest.raises(ExplanationDiffers):
            explain(explainer, image, other, (10, 16))
        explain(explainer, image, other, (0, 0))  # that tile does not cover the changed cell


def decoded(content: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


@pytest.mark.parametrize("cell", [(0, 0), (7, 7), (3, 4), (0, 7), (7, 2)])
def test_patch_shows_the_cell_in_its_surroundings(cell: tuple[int, int]) -> None:
    image = np.zeros((80, 160, 3), np.uint8)
    row, column = cell
    image[row * 10 : row * 10 + 10, column * 20 : column * 20 + 20] = 255
    patch = cut_patch(image, WHOLE.part(row, column, 8, 8))
    assert patch.size_wh == (CONTEXT_CELLS * 20, CONTEXT_CELLS * 10)
    shown = decoded(patch.content)
    left, top = round(patch.cell.left * 100), round(patch.cell.top * 50)
    assert (patch.cell.width, patch.cell.height) == pytest.approx((1 / CONTEXT_CELLS, 1 / CONTEXT_CELLS))
    assert shown[top + 2 : top + 8, left + 2 : left + 18].min() > 200
    assert shown.mean() == pytest.approx(255 / CONTEXT_CELLS**2, abs=4), "one cell of the patch is white"


def test_patch_of_a_large_image_is_reduced_and_of_a_small_one_is_not_enlarged() -> None:
    large = cut_patch(np.zeros((2000, 4000, 3), np.uint8), WHOLE.part(4, 4, 8, 8))
    assert large.size_wh == (MAX_SIDE, MAX_SIDE // 2)
    small = cut_patch(np.zeros((16, 16, 3), np.uint8), WHOLE.part(4, 4, 8, 8))
    assert small.size_wh == (10, 10)


def test_patch_of_a_view_is_the_same_as_that_of_its_image() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(40, axis=0).repeat(40, axis=1)
    view = Box(0.25, 0.5, 0.5, 0.5)
    cell = view.part(2, 2, 5, 5)
    whole = cut_patch(image, cell)
    part_of_view = cut_patch(np.ascontiguousarray(image[160:, 80:240]), cell, view)
    np.testing.assert_array_equal(decoded(whole.content), decoded(part_of_view.content))
    assert part_of_view.cell.left == pytest.approx(whole.cell.left)
    assert part_of_view.cell.width == pytest.approx(whole.cell.width)
