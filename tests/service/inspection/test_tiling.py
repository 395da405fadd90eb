"""Large images in tiles: positions of tiles, blending of their maps, and detection of small defects."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle.manifest import InputGeometry, Tiling
from service.errors import QueueFull
from service.inspection.decision import Criteria, Decision
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.batching import BatchingOptions, PatchResult
from service.inspection.runtime.session import SessionOptions
from service.inspection.tiling import ALIGNMENT_PX, Blend, cut, infer_tiles, plan_tiles, prepare_input
from service.recipes.recipe import Recipe
from tests.bundles import CELL, SIZE, part, tiny_draft, write_tiny_bundle
from tests.running_service import encode

TILED = InputGeometry(height=SIZE, width=SIZE, tiling=Tiling(overlap=16))
OPTIONS = InspectorOptions(session=SessionOptions(provider="cpu", threads=1), batching=BatchingOptions(max_batch=4))


def geometry(tile: int = 64, overlap: int = 16, scale: float = 1.0) -> InputGeometry:
    return InputGeometry(height=tile, width=tile, tiling=Tiling(overlap=overlap, scale=scale))


def patch_means(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the tiny graph's map of a whole image, computed with numpy."""
    height, width = image.shape[0] // CELL, image.shape[1] // CELL
    gray = image.astype(np.float32).mean(axis=2)[: height * CELL, : width * CELL] / 255
    means = np.abs(gray.reshape(height, CELL, width, CELL).mean(axis=(1, 3)) - 0.5)
    return np.asarray(means, np.float32)


def inspector(models: Path, *, gain: bool = False, tiling: Tiling | None = TILED.tiling) -> Inspector:
    size = InputGeometry(height=SIZE, width=SIZE, tiling=tiling)
    return Inspector.load(write_tiny_bundle(models, gain=gain, input=size).path, OPTIONS)


@given(
    st.integers(1, 900), st.integers(1, 900), st.sampled_from([32, 64, 96]), st.sampled_from([0, 4, 12]),
    st.sampled_from([1.0, 0.5, 0.37]),
)  # fmt: skip
def test_tiles_cover_every_pixel_and_start_on_cell_edges(
    height: int, width: int, tile: int, overlap: int, scale: float
) -> None:
    grid = plan_tiles((height, width), geometry(tile, overlap, scale))
    covered = np.zeros(grid.padded_hw, int)
    for top, left in grid:
        assert top % 4 == left % 4 == 0
        covered[top : top + tile, left : left + tile] += 1

    assert covered.min() >= 1
    assert len(list(grid)) == len(grid)
    for size, image, starts in zip(grid.padded_hw, grid.source_hw, (grid.tops, grid.lefts), strict=True):
        assert image <= size < max(image + ALIGNMENT_PX, tile + 1)
        assert all(later - earlier <= tile - overlap for earlier, later in pairwise(starts))


def test_number_of_tiles() -> None:
    grid = plan_tiles((3000, 4096), geometry(512, 64))

    assert (len(grid.tops), len(grid.lefts)) == (7, 9)
    assert grid.padded_hw == (3008, 4096)


def test_padding_mirrors_the_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (70, 40, 3), np.uint8)

    laid = prepare_input(rgb, geometry())

    assert laid.shape == (96, 64, 3)
    np.testing.assert_array_equal(laid[:70, :40], rgb)
    np.testing.assert_array_equal(laid[70:, :40], rgb[68:42:-1])


def test_tiles_are_views_of_the_image() -> None:
    laid = prepare_input(np.zeros((256, 256, 3), np.uint8), geometry())

    assert all(
        tile.base is not None and np.shares_memory(tile, laid) for tile in cut(laid, plan_tiles((256, 256), geometry()))
    )


def test_without_a_tiling_the_whole_image_is_stretched() -> None:
    assert prepare_input(np.zeros((100, 300, 3), np.uint8), InputGeometry(height=64, width=64)).shape == (64, 64, 3)


@pytest.mark.parametrize("overlap", [0, 16, 28])
def test_maps_of_equal_tiles_blend_without_a_seam(overlap: int) -> None:
    grid = plan_tiles((200, 300), geometry(64, overlap))
    blend = Blend(grid, (16, 16))
    for corner in grid:
        blend.add(corner, np.full((16, 16), 0.7, np.float32))

    whole = blend.finish()

    assert whole.shape == (50, 75)
    np.testing.assert_allclose(whole, 0.7, rtol=1e-6)


def test_neighbours_are_blended_with_half_a_hann_window() -> None:
    grid = plan_tiles((64, 112), geometry(64, 16))
    blend = Blend(grid, (16, 16))
    for corner, level in zip(grid, (0.0, 1.0), strict=False):
        blend.add(corner, np.full((16, 16), level, np.float32))
    assert grid.lefts == (0, 48, 64), "the last tile ends at the end of the padded image"
    blend.add((0, 64), np.full((16, 16), 1.0, np.float32))

    row = blend.finish()[8]

    assert row[:12].max() == 0
    assert row[16:].min() == pytest.approx(1)
    np.testing.assert_allclose(row[12:14], np.sin(np.pi / 2 * (np.arange(2) + 0.5) / 4) ** 2, atol=1e-6)
    assert (np.diff(row[11:17]) >= 0).all()


@given(st.integers(0, 2**32 - 1))
def test_no_cell_exceeds_the_highest_tile_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = plan_tiles((130, 150), geometry(64, 16))
    blend, tiles = Blend(grid, (16, 16)), rng.normal(size=(len(grid), 16, 16)).astype(np.float32)
    for corner, tile in zip(grid, tiles, strict=True):
        blend.add(corner, tile)

    whole = blend.finish()

    assert whole.max() <= tiles.max() + 1e-5
    assert whole.min() >= tiles.min() - 1e-5
    assert {whole[window].size > 0 for window in blend.windows} == {True}


@pytest.mark.parametrize("size_wh", [(64, 64), (200, 120), (333, 257), (40, 30), (48, 500)])
def test_tiled_map_equals_the_whole_map_for_a_graph_of_independent_patches(
    tmp_path: Path, size_wh: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)
    tiled = inspector(tmp_path)
    measured = tiled.measure(encode(image))
    tiled.close()

    assert measured.anomaly_map.shape == (-(-size_wh[1] // CELL), -(-size_wh[0] // CELL))
    whole = patch_means(image)
    np.testing.assert_allclose(measured.anomaly_map[: whole.shape[0], : whole.shape[1]], whole, atol=1e-5)


def test_score_is_that_of_the_highest_tile_and_never_above_the_map(tmp_path: Path) -> None:
    image = part(width=640, height=480, spot=(300, 200, 8))
    tiled = inspector(tmp_path)
    measured = tiled.measure(encode(image))
    tiled.close()

    # The top 1 % of a tile's 256 cells are 3, of the whole map's 19,200 they would be 192.
    top = np.sort(measured.anomaly_map.ravel())[-3:]
    assert measured.score == pytest.approx(float(top.mean()))
    assert measured.score <= measured.anomaly_map.max()
    assert tiled.score_map(measured.anomaly_map, (640, 480)) == measured.score, "the same score from a stored map"


def test_every_tile_is_multiplied_by_its_own_gain(tmp_path: Path) -> None:
    image = part(width=64 + 48, height=64, spot=(8, 8, 16))  # in the first tile alone
    plain, gained = inspector(tmp_path / "a"), inspector(tmp_path / "b", gain=True)
    before, after = plain.measure(encode(image)), gained.measure(encode(image))
    plain.close()
    gained.close()

    spot = (slice(2, 6), slice(2, 6))
    np.testing.assert_allclose(after.anomaly_map[spot], before.anomaly_map[spot] * (1 + before.anomaly_map.max()))
    assert after.anomaly_map[:, 20:].max() == pytest.approx(before.anomaly_map[:, 20:].max() * 1.00196, rel=1e-4)


def test_image_is_scaled_before_it_is_cut(tmp_path: Path) -> None:
    tiled = inspector(tmp_path, tiling=Tiling(overlap=16, scale=0.5))
    verdict = tiled.inspect(
        encode(part(width=640, height=480, spot=(400, 100, 48))), Criteria(Recipe.default(tiled.card.scores).thresholds)
    )
    tiled.close()

    assert verdict.anomaly_map.shape == (60, 80)
    (region,) = verdict.regions
    x, y, width, height = region.bbox
    assert x <= 400 <= 448 <= x + width
    assert y <= 100 <= 148 <= y + height


@pytest.mark.slow
def test_defect_of_24_pixels_in_twelve_megapixels_is_found_where_stretching_misses_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(-6, 7, (3000, 4096, 1))
    image = (part(width=4096, height=3000, spot=(3011, 1703, 24)).astype(int) + noise).clip(0, 255).astype(np.uint8)
    data = encode(image)
    tiled, stretched = inspector(tmp_path / "tiled"), inspector(tmp_path / "stretched", tiling=None)
    criteria = Criteria(Recipe.default(tiled.card.scores).thresholds)
    found, missed = tiled.inspect(data, criteria), stretched.inspect(data, criteria)
    tiled.close()
    stretched.close()

    assert (missed.decision, missed.regions) == (Decision.PASS, ())
    assert found.decision is Decision.FAIL
    (region,) = found.regions
    x, y, width, height = region.bbox
    assert abs(x - 3011) <= CELL
    assert abs(y - 1703) <= CELL
    assert abs(width - 24) <= 2 * CELL
    assert abs(height - 24) <= 2 * CELL


def test_number_of_queued_tiles_is_limited() -> None:
    size = geometry(64, 16)
    grid = plan_tiles((500, 500), size)
    waiting: list[Future[PatchResult]] = []
    most = 0

    def submit(tile: npt.NDArray[np.uint8]) -> Future[PatchResult]:
        nonlocal most
        future: Future[PatchResult] = Future()
        waiting.append(future)
        most = max(most, sum(not item.done() for item in waiting))
        # The oldest tile finishes only when no more tiles may be queued.
        if sum(not item.done() for item in waiting) == 6:
            finish(waiting[:-5])
        if len(waiting) == len(grid):
            finish(waiting)
        return future

    def finish(futures: list[Future[PatchResult]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(PatchResult(np.zeros((16, 16), np.float32), None, 0.0, 0.1, 1))

    result = infer_tiles(prepare_input(np.zeros((500, 500, 3), np.uint8), size), grid, submit, 6)

    assert most == 6
    assert result.infer_s == pytest.approx(0.1 * len(grid))
    assert len(result.windows) == len(grid)


def test_failed_tile_cancels_the_queued_ones() -> None:
    size = geometry(64, 16)
    submitted: list[Future[PatchResult]] = []

    def submit(tile: npt.NDArray[np.uint8]) -> Future[PatchResult]:
        if len(submitted) == 3:
            raise QueueFull(3, 0.1)
        submitted.append(Future())
        return submitted[-1]

    with pytest.raises(QueueFull):
        infer_tiles(prepare_input(np.zeros((500, 500, 3), np.uint8), size), plan_tiles((500, 500), size), submit, 8)

    assert all(future.cancelled() for future in submitted)


def test_parallel_tiled_images_do_not_fill_the_queue(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path, input=TILED).path
    options = InspectorOptions(session=OPTIONS.session, batching=BatchingOptions(max_batch=2, queue_limit=4))
    tiled = Inspector.load(path, options)
    data = encode(part(width=600, height=600))
    scores: list[float] = []
    threads = [threading.Thread(target=lambda: scores.append(tiled.measure(data).score)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tiled.close()

    assert len(scores) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input": InputGeometry(height=64, width=64, tiling=Tiling(overlap=18))}, "overlap"),
        ({"input": InputGeometry(height=64, width=96, tiling=Tiling(overlap=16))}, "same integer"),
        ({"map_height": 15, "map_width": 15, "input": TILED}, "same integer"),
    ],
)
def test_tiling_that_does_not_fit_the_map_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_draft(**values)


@pytest.mark.parametrize("overlap", [32, 64, -1])
def test_overlap_is_less_than_half_a_tile(overlap: int) -> None:
    with pytest.raises(ValidationError):
        InputGeometry(height=64, width=64, tiling=Tiling(overlap=overlap))


def test_manifest_without_a_tiling_serialises_as_before() -> None:
    assert InputGeometry(height=64, width=64).model_dump(mode="json") == {
        "height": 64,
        "width": 64,
        "color": "rgb",
        "resize": "stretch",
    }
    assert InputGeometry.model_validate(TILED.model_dump()) == TILED
