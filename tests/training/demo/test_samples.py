"""The shipped sample images are the ones that the committed command draws."""

from pathlib import Path

import cv2
import numpy as np

from training.demo.samples import SAMPLES, write_samples

SHIPPED = Path(__file__).parents[3] / "docs" / "samples"


def test_shipped_samples_are_what_the_command_draws(tmp_path: Path) -> None:
    drawn = write_samples(tmp_path, seed=1)

    assert [path.stem for path in drawn] == [name for name, _, _ in SAMPLES]
    assert {path.name for path in SHIPPED.glob("*.jpg")} == {path.name for path in drawn}
    for path in drawn:
        again, shipped = cv2.imread(str(path)), cv2.imread(str(SHIPPED / path.name))
        assert again is not None
        assert shipped is not None
        # JPEG encoders may differ in the last bit from one OpenCV to the next, parts do not.
        assert np.abs(again.astype(int) - shipped.astype(int)).mean() < 1.0, path.name
