"""Training on tiles: they equal the service's tiles, and the bundle records the tiling."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.manifest import InputGeometry, Tiling
from service.inspection.decoded_image import DecodedImage
from service.inspection.inspector import Inspector
from service.inspection.tiling import cut, plan_tiles, prepare_input
from tests.training.small_product import write_plates
from training import dataset
from training import tiles as tiles_module
from training.config import FitConfig
from training.dataset import read_for, read_rgb
from training.errors import InvalidFitConfig, UnreadableImage
from training.pipeline import Request, inspector_options, train
from training.places import ViewPlace
from training.tiles import load_for_training, load_sample

TILED = InputGeometry(height=64, width=64, tiling=Tiling(overlap=0))
TILE_BYTES = 64 * 64 * 3


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(5)]
    for file in files:
        cv2.imwrite(str(file), rng.integers(0, 255, (130, 200, 3), np.uint8))
    return files


def test_every_tile_of_every_image_is_loaded_where_memory_allows(paths: list[Path]) -> None:
    seen: list[int] = []

    tiles = load_for_training(paths, TILED, 0, seen.append)

    expected = [
        tile for path in paths for tile in cut(prepare_input(read_rgb(path), TILED), plan_tiles((130, 200), TILED))
    ]
    assert sorted(tile.tobytes() for tile in tiles) == sorted(tile.tobytes() for tile in expected)
    assert tiles[0].tobytes() != expected[0].tobytes(), "in random order"
    assert seen == [1, 2, 3, 4, 5]


def test_tiles_of_every_image_are_drawn_by_the_seed_where_memory_is_limited(paths: list[Path]) -> None:
    every = load_for_training(paths, TILED, 0)
    some = load_for_training(paths, TILED, 7, memory_bytes=15 * TILE_BYTES)

    assert len(some) == 15
    assert {tile.tobytes() for tile in some} <= {tile.tobytes() for tile in every}
    np.testing.assert_array_equal(some, load_for_training(paths, TILED, 7, memory_bytes=15 * TILE_BYTES))
    assert not np.array_equal(some, load_for_training(paths, TILED, 8, memory_bytes=15 * TILE_BYTES))
    assert len(load_for_training(paths, TILED, 7, memory_bytes=1)) == 5, "at least one tile of every image"


def test_places_of_tiles_are_those_that_they_show(paths: list[Path]) -> None:
    geometry = InputGeometry(height=64, width=64, tiling=Tiling(overlap=16, scale=0.8))
    places: list[ViewPlace] = []
    tiles = load_for_training(paths, geometry, 7, memory_bytes=15 * TILE_BYTES, places=places)
    assert len(places) == len(tiles) == 15
    assert {place.image for place in places} == set(range(5))
    for tile, place in zip(tiles, places, strict=True):
        left, top, width, height = place.box
        prepared = prepare_input(read_rgb(paths[place.image]), geometry)
        # The scaled image has 160 x 104 pixels; tiles at the border extend beyond it.
        x, y = round(left * 160), round(top * 104)
        assert (round(width * 160), round(height * 104)) == (64, 64)
        np.testing.assert_array_equal(prepared[y : y + 64, x : x + 64], tile)


def test_places_of_whole_images_are_in_their_order(paths: list[Path]) -> None:
    places: list[ViewPlace] = []
    load_for_training(paths, InputGeometry(height=64, width=64), 0, places=places)
    assert places == [ViewPlace(number, (0, 0, 1, 1)) for number in range(5)]


@pytest.mark.parametrize("geometry", [TILED, InputGeometry(height=64, width=64)], ids=["tiled", "whole"])
def test_a_sample_decodes_no_more_images_than_it_holds(
    paths: list[Path], geometry: InputGeometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def recorded(path: Path, geometry: InputGeometry) -> DecodedImage:
        decoded.append(path)
        return read_for(path, geometry)

    monkeypatch.setattr(dataset, "read_for", recorded)
    monkeypatch.setattr(tiles_module, "read_for", recorded)
    sample = load_sample(paths, geometry, 3, 2)

    assert sample.shape == (2, 64, 64, 3)
    assert len(decoded) == 2
    np.testing.assert_array_equal(sample, load_sample(paths, geometry, 3, 2))
    every = {image.tobytes() for image in load_for_training(paths, geometry, 0)}
    assert {image.tobytes() for image in sample} <= every
    assert len(load_sample(paths, InputGeometry(height=64, width=64), 3, 9)) == 5


def test_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-17.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")

    with pytest.raises(UnreadableImage, match=r"part-17\.png"):
        load_for_training([tmp_path / "part-17.png"], TILED, 0)


@pytest.mark.parametrize("values", [{"overlap": 33}, {"overlap": 128}, {"scale": 0.5}, {"overlap": 32, "scale": 0.0}])
def test_impossible_tilings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidFitConfig):
        FitConfig(**values)  # type: ignore[arg-type]  # a table of different fields


class Quiet:
    """A reporter without output."""

    def note(self, text: str) -> None:
        pass

    def stage(self, *_: object) -> Callable[[int, str], None]:
        return lambda *_: None


@pytest.mark.slow
def test_tiled_product_is_trained_calibrated_and_served_alike(tmp_path: Path) -> None:
    data = write_plates(tmp_path / "plates")  # 80 x 72 pixels: four tiles
    config = FitConfig(input_size=64, overlap=0, iterations=2, batch_size=4, pseudo_pool=8, threads=1, warmup_steps=1)
    request = Request(data, "plate", tmp_path / "models", tmp_path / "run", config, evaluate=True, allow_weak=True)

    trained = train(request, Quiet())

    manifest = trained.bundle.manifest
    assert manifest.input.tiling == Tiling(overlap=0)
    assert "aupro" in (manifest.evaluation or {})
    inspector = Inspector.load(trained.bundle.path, inspector_options(threads=1, provider="cpu"))
    measured = [inspector.measure(path.read_bytes()) for path in trained.data.held_out]
    inspector.close()
    np.testing.assert_allclose(trained.bundle.card.scores, sorted(item.score for item in measured), rtol=1e-5)
    stride = 64 // manifest.map_width
    assert {item.anomaly_map.shape for item in measured} == {(-(-72 // stride), 80 // stride)}
