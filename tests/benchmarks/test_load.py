"""Images of benchmarks: one that the quality check rejects would measure a service that does not run the graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import latency, soak
from benchmarks.derived_bundle import with_input
from benchmarks.load import good_jpeg, require_judged
from benchmarks.soak import Run
from benchmarks.tiling import textured_jpeg
from service.bundle.bundle import Bundle, bundle_folders
from service.bundle.manifest import Tiling
from tests.bundles import part, tiny_quality, write_tiny_bundle
from tests.running_service import encode
from tests.serving import service_process

pytestmark = pytest.mark.slow


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A bundle whose quality check rejects dark images."""
    write_tiny_bundle(tmp_path / "models", quality=tiny_quality(brightness=(100, 200)))
    return tmp_path / "models"


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    path = tmp_path / "dark.png"
    path.write_bytes(encode(part(brightness=5)))
    return path


def run_latency(models: Path, image: Path | None) -> None:
    latency.main("widget", models, image, rounds=10, limit=1e9)


def run_soak(models: Path, image: Path | None) -> None:
    soak.main("widget", models, 100, image, kill=False, data=None)


@pytest.mark.parametrize("run", [run_latency, run_soak])
def test_benchmark_fails_if_its_image_is_rejected(
    models: Path, dark: Path, run: Callable[[Path, Path | None], None]
) -> None:
    with pytest.raises(RuntimeError, match=r"rejected.*under-exposed"):
        run(models, dark)


def test_image_of_another_size_is_judged_by_a_bundle_for_this_size(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latency.main("widget", models, None, width=200, height=100, scaled=True, rounds=10, limit=1e9)
    report = json.loads(capsys.readouterr().out)
    assert (report["image_wh"], report["jpeg"]) == ([200, 100], "scaled")
    assert report["service_stage_median_ms"]["infer"] > 0


def test_noise_makes_the_image_larger_and_the_bundle_for_its_size_keeps_all_other_limits(
    models: Path, tmp_path: Path
) -> None:
    assert len(good_jpeg(models, "widget", (200, 100), 4)) > 2 * len(good_jpeg(models, "widget", (200, 100)))

    bundle = Bundle.load(bundle_folders(models / "widget")[0])
    derived = with_input(bundle, tmp_path / "derived", sent_wh=(200, 100))
    sizes = derived.card.image_size
    assert sizes is not None
    assert (sizes.min_width, sizes.max_height, sizes.min_aspect, sizes.max_aspect) == (200, 100, 2, 2)
    assert derived.card.quality == bundle.card.quality


def test_default_image_of_the_benchmarks_gets_a_verdict(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_latency(models, None)
    report = json.loads(capsys.readouterr().out)
    assert report["rounds"] == 10
    assert report["service_stage_median_ms"]["infer"] > 0


def test_image_of_the_shipped_bundle_gets_a_verdict(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2] / "models"
    with service_process(repository, tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        for size in (256, 512, 1024):
            require_judged(service, "washer", good_jpeg(repository, "washer", (size, size)))


def test_images_without_a_verdict_are_counted() -> None:
    assert Run(completed={"a": "pass", "b": "invalid", "c": "fail", "d": "invalid"}).invalid == 2


def test_bundle_of_the_tiling_benchmark_judges_its_images(models: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(bundle_folders((models / "widget").absolute())[0])
    tiled = with_input(bundle, tmp_path / "tiled", is_checked=False, tiling=Tiling(overlap=8))
    assert tiled.card.quality is None
    with service_process(tmp_path / "tiled", tmp_path / "data", {"provider": "cpu"}) as service:
        service.wait_until(200)
        for size in ((256, 256), (928, 928), (1024, 768)):
            require_judged(service, "widget", textured_jpeg(*size))
