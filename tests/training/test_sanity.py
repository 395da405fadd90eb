"""The sanity check: figures of a graph that finds synthetic anomalies and of one that does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from service.bundle.card import SanityFigures
from service.inspection.inspector import Inspector
from tests.training.small_product import build_bundle, write_plates
from training.dataset import scan
from training.pipeline import inspector_options
from training.sanity import MIN_IMAGE_AUROC, MIN_PIXEL_AUROC, measure_sanity, sample_size, weaknesses


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def inspector(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    bundle: Bundle = build_bundle(data, tmp_path_factory.mktemp("models"))
    inspector = Inspector.load(bundle.path, inspector_options(threads=1, provider="cpu"))
    yield inspector
    inspector.close()


@pytest.mark.slow
def test_figures_come_from_the_exported_graph_on_held_out_images(inspector: Inspector, data: Path) -> None:
    held_out, seen = scan(data).held_out, list[int]()

    figures = measure_sanity(inspector, held_out, 0, seen.append)

    assert (figures.images, figures.synthetic) == (10, 60)
    assert figures.image_auroc > 0.6, "edge energy finds most anomalies on a plain plate"
    assert seen == list(range(1, 11))
    assert sample_size(inspector, held_out) == 10
    assert measure_sanity(inspector, held_out, 0) == figures
    assert measure_sanity(inspector, held_out, 1) != figures


def test_graph_that_ignores_the_image_is_weak(
    inspector: Inspector, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = inspector.measure(scan(data).held_out[0].read_bytes())
    monkeypatch.setattr(inspector, "measure", lambda _: first)

    figures = measure_sanity(inspector, scan(data).held_out, 0)

    assert figures.image_auroc == 0.5
    image, pixel = weaknesses(figures)
    assert "image AUROC on synthetic anomalies is 0.50" in image
    assert "pixel AUROC" in pixel


@pytest.mark.parametrize(
    ("image", "pixel", "count"),
    [
        (MIN_IMAGE_AUROC, MIN_PIXEL_AUROC, 0),
        (MIN_IMAGE_AUROC - 0.01, 1.0, 1),
        (1.0, MIN_PIXEL_AUROC - 0.01, 1),
        (0.36, 0.5, 2),
    ],
)
def test_both_floors_must_be_reached(image: float, pixel: float, count: int) -> None:
    figures = SanityFigures(images=10, synthetic=60, image_auroc=image, pixel_auroc=pixel)

    assert len(weaknesses(figures)) == count
