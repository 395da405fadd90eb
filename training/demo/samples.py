"""The sample images that `make demo` inspects. They are not part of any training folder."""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from training.demo.defects import Defect
from training.demo.part import render_part

# Name, defect, and a seed in addition to the command's; the seeds are chosen for different appearances.
SAMPLES: tuple[tuple[str, Defect | None, int], ...] = (
    ("good-1", None, 0),
    ("good-2", None, 1),
    ("good-3", None, 2),
    ("scratch", "scratch", 3),
    ("dent", "dent", 4),
    ("stain", "stain", 5),
    ("burr", "burr", 6),
    ("missing-hole", "missing_hole", 7),
)
JPEG_QUALITY = 92  # as a camera would send it


def write_samples(folder: Path, seed: int) -> list[Path]:
    """Write every sample as a 512 x 512 JPEG.

    Args:
        folder: The folder to write; created if missing.
        seed: Seed of the parts.

    Returns:
        The files, in the order of `SAMPLES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, defect, number in SAMPLES:
        # The third word of the seed is larger than any of write_dataset: no sample equals a training image.
        image, _ = render_part(np.random.default_rng([seed, number, 2**31]), defect)
        path = folder / f"{name}.jpg"
        _, data = cv2.imencode(path.suffix, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        path.write_bytes(data.tobytes())
        paths.append(path)
    return paths


def main(folder: Path, seed: Annotated[int, typer.Option(min=0)] = 1) -> None:
    """Write the sample images of the demo product."""
    write_samples(folder, seed)


if __name__ == "__main__":
    typer.run(main)
