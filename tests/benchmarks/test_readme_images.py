"""The image of the README can be drawn from any bundle."""

from pathlib import Path

import cv2

from benchmarks.readme_images import GAP_PX, SHOWN, TILE_PX, main

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"


def test_the_sheet_shows_every_chosen_sample_with_its_heatmap(tiny_models: Path, tmp_path: Path) -> None:
    main(models=tiny_models, product="widget", samples=SAMPLES, out=tmp_path)
    sheet = cv2.imread(str(tmp_path / "verdicts.jpg"))

    assert sheet is not None
    height, width = sheet.shape[:2]
    assert width == len(SHOWN) * (TILE_PX + GAP_PX) - GAP_PX
    assert height > 2 * TILE_PX
