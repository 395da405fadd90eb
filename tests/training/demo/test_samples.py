"""The shipped sample images equal the output of the command."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.demo.samples import SAMPLES, write_samples

SHIPPED = Path(__file__).parents[3] / "docs" / "samples"


@pytest.mark.slow
def test_shipped_samples_equal_the_output_of_the_command(tmp_path: Path) -> None:
    drawn = write_samples(tmp_path, seed=1)

    assert [path.stem for path in drawn] == [name for name, _, _ in SAMPLES]
    assert {path.name for path in SHIPPED.glob("*.jpg")} == {path.name for path in drawn}
    for path in drawn:
        again, shipped = cv2.imread(str(path)), cv2.imread(str(SHIPPED / path.name))
        assert again is not None
        assert shipped is not None
        # JPEG encoders of different OpenCV versions may differ in the last bit.
        assert np.abs(again.astype(int) - shipped.astype(int)).mean() < 1.0, path.name
