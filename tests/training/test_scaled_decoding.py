"""Scaled decoding in training: the pixels are those of the service, and the bundle states it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.manifest import InputGeometry
from service.inspection.decoded_image import decode_for
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.inspector import Inspector
from service.inspection.preparation import prepare
from tests.training.small_product import write_plates
from tests.training.test_tiles import Quiet
from training.config import FitConfig
from training.dataset import load_prepared, read_rgb, require_jpeg
from training.errors import InvalidFitConfig, InvalidOption, UnreadableImage
from training.pipeline import Request, inspector_options, train
from training.tiles import load_for_training

SCALED = InputGeometry(height=64, width=64, jpeg="scaled")
SIZE_WH = (400, 320)


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small product as large JPEG files."""
    root = write_plates(tmp_path_factory.mktemp("plates"))
    for path in list(root.rglob("*.png")):
        if "ground_truth" not in path.parts:
            small = cv2.imread(str(path))
            assert small is not None
            image = cv2.resize(small, SIZE_WH, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(path.with_suffix(".jpg")), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            path.unlink()
        else:
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert mask is not None
            cv2.imwrite(str(path), cv2.resize(mask, SIZE_WH, interpolation=cv2.INTER_NEAREST))
    return root


def test_training_reads_the_pixels_of_the_service(plates: Path) -> None:
    paths = sorted((plates / "train" / "good").iterdir())[:3]
    sizes: list[tuple[int, int]] = []

    images = load_for_training(paths, SCALED, 0, sizes=sizes)

    assert sizes == [SIZE_WH] * 3
    for path, image in zip(paths, images, strict=True):
        decoded = decode_for(path.read_bytes(), ImageLimits(), SCALED)
        assert decoded.rgb.shape == (80, 100, 3)
        np.testing.assert_array_equal(image, prepare(decoded.rgb, SCALED))
        assert not np.array_equal(image, prepare(read_rgb(path), SCALED))


def test_scaled_decoding_is_not_for_tiles() -> None:
    with pytest.raises(InvalidFitConfig, match="tiles"):
        FitConfig(scaled_decoding=True, overlap=32)


def test_all_images_must_be_jpeg(plates: Path, tmp_path: Path) -> None:
    good = sorted((plates / "train" / "good").iterdir())
    require_jpeg(good)
    other = tmp_path / "part.jpg"
    other.write_bytes(cv2.imencode(".png", np.zeros((200, 200, 3), np.uint8))[1].tobytes())

    with pytest.raises(InvalidOption, match=r"part\.jpg \(image/png\)"):
        require_jpeg([*good, other])
    with pytest.raises(UnreadableImage, match="missing"):
        require_jpeg([tmp_path / "missing.jpg"])


@pytest.mark.slow
def test_product_is_trained_calibrated_and_served_alike(plates: Path, tmp_path: Path) -> None:
    config = FitConfig(
        input_size=64, scaled_decoding=True, iterations=2, batch_size=4, pseudo_pool=8, threads=1, warmup_steps=1
    )
    request = Request(plates, "plate", tmp_path / "models", tmp_path / "run", config, evaluate=True, allow_weak=True)

    trained = train(request, Quiet())

    manifest, card = trained.bundle.manifest, trained.bundle.card
    assert manifest.input.jpeg == "scaled"
    assert "aupro" in (manifest.evaluation or {})
    assert card.image_size is not None
    assert (card.image_size.min_width, card.image_size.max_height) == SIZE_WH
    inspector = Inspector.load(trained.bundle.path, inspector_options(threads=1, provider="cpu"))
    measured = [inspector.measure(path.read_bytes()) for path in trained.data.held_out]
    golden = load_prepared(trained.data.held_out, manifest.input)
    inspector.close()
    np.testing.assert_allclose(card.scores, sorted(item.score for item in measured), rtol=1e-5)
    assert any(np.array_equal(trained.bundle.golden[0].image, image) for image in golden)
