"""Bundles with scaled decoding: where results must equal those of full decoding, and what stays in original pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from service.bundle.manifest import InputGeometry, Tiling, graph_metadata
from service.inspection.decision import Criteria
from service.inspection.decoded_image import decode_for
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.preparation import prepare
from service.inspection.runtime.session import SessionOptions
from service.recipes.recipe import Recipe
from tests.bundles import SIZE, part, tiny_draft, write_tiny_bundle
from tests.running_service import encode
from tests.service.inspection.decoding.test_scaled_jpeg import jpeg, textured

FULL, SCALED = InputGeometry(height=SIZE, width=SIZE), InputGeometry(height=SIZE, width=SIZE, jpeg="scaled")
OPTIONS = InspectorOptions(session=SessionOptions(provider="cpu", threads=1))


def inspector(models: Path, geometry: InputGeometry) -> Inspector:
    return Inspector.load(write_tiny_bundle(models, input=geometry).path, OPTIONS)


@pytest.mark.parametrize("size", [(64, 64), (100, 127), (128, 128), (300, 200), (600, 900), (37, 800), (301, 201)])
def test_size_is_that_of_the_file(size: tuple[int, int]) -> None:
    data = jpeg(textured(*size))
    full, scaled = (decode_for(data, ImageLimits(), geometry) for geometry in (FULL, SCALED))

    assert full.image_wh == scaled.image_wh == size[::-1]
    if min(size) < 2 * SIZE or size[0] % 2:
        np.testing.assert_array_equal(scaled.rgb, full.rgb)
    else:
        assert scaled.rgb.shape[0] <= full.rgb.shape[0] // 2
        found, expected = (prepare(image.rgb, FULL).astype(int) for image in (scaled, full))
        assert np.abs(found - expected).mean() < 2


def test_bundle_without_the_field_decodes_in_full(tmp_path: Path) -> None:
    data = jpeg(textured(500, 400))
    loaded = inspector(tmp_path, FULL)
    image = loaded.read(data)
    loaded.close()

    np.testing.assert_array_equal(image.pixels, prepare(decode_for(data, ImageLimits(), FULL).rgb, FULL))
    assert "jpeg" not in FULL.model_dump(mode="json")
    assert "jpeg" not in graph_metadata(tiny_draft())["plumbline.input"]


def test_bundle_states_scaled_decoding_in_manifest_and_graph(tmp_path: Path) -> None:
    loaded = inspector(tmp_path, SCALED)
    loaded.close()

    assert loaded.bundle.manifest.input.jpeg == "scaled"
    assert InputGeometry.model_validate(SCALED.model_dump(mode="json")) == SCALED
    assert '"jpeg": "scaled"' in graph_metadata(tiny_draft(input=SCALED))["plumbline.input"]


def test_tiles_are_cut_from_the_full_image() -> None:
    with pytest.raises(ValidationError, match="full with a tiling"):
        InputGeometry(height=64, width=64, tiling=Tiling(overlap=16), jpeg="scaled")


def test_regions_quality_and_size_are_those_of_full_decoding(tmp_path: Path) -> None:
    image = part(width=640, height=512, spot=(320, 128, 80))
    full, scaled = inspector(tmp_path / "full", FULL), inspector(tmp_path / "scaled", SCALED)
    criteria = Criteria(Recipe.default(full.card.scores).thresholds)
    data = jpeg(image, quality=95, subsampling="4:4:4")
    expected, found = full.inspect(data, criteria), scaled.inspect(data, criteria)
    lossless = scaled.inspect(encode(image), criteria)
    full.close()
    scaled.close()

    (region,) = found.regions
    (other,) = expected.regions
    assert region.bbox == other.bbox
    assert region.area_px == other.area_px
    assert found.image.image_wh == (640, 512)
    assert found.decision is expected.decision
    assert found.score == pytest.approx(expected.score, rel=0.01)
    assert found.image.quality.brightness == pytest.approx(expected.image.quality.brightness, abs=0.5)
    np.testing.assert_array_equal(lossless.image.pixels, prepare(image, FULL))


def test_uniform_image_has_the_same_pixels(tmp_path: Path) -> None:
    data = jpeg(part(width=640, height=512))
    np.testing.assert_array_equal(
        prepare(decode_for(data, ImageLimits(), SCALED).rgb, SCALED),
        prepare(decode_for(data, ImageLimits(), FULL).rgb, FULL),
    )
