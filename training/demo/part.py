"""The demo product: rendered images of a stamped, brushed-metal washer on a conveyor belt, with exact defect masks.

The images belong to this project: they can be shipped, rendered again and published together with models trained on
them. Public inspection data sets restrict that. The renderer shades a height field of chamfers, grooves and stamped
letters with an anisotropic highlight, as circular brushing gives it, under a key light and a fill light whose direction
and strength vary from part to part.

    python -m training.demo.part OUT --train 120 --test 12 --seed 0

writes an MVTec-layout folder. Lengths are in pixels of a 512 x 512 image and scale with the requested size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.progress import Progress

from training.demo.defects import DEFECTS, Defect, add_defect
from training.demo.scene import REFERENCE_PX, Generator, Grid, Part
from training.demo.shading import ImageArray, exposed, radiance_of

MaskArray: TypeAlias = npt.NDArray[np.bool_]

VISIBLE = 4 / 255  # smaller changes of radiance are not part of the mask: they cannot be seen


def render_part(
    rng: Generator, defect: Defect | None = None, *, size_px: int = REFERENCE_PX
) -> tuple[ImageArray, MaskArray]:
    """Render one part.

    Generators with the same seed give the same part. With and without a defect, exactly the pixels of the mask differ.

    Args:
        rng: Source of all variations. A second call with the same generator renders another part.
        defect: The defect, or None for a good part.
        size_px: Width and height of the image, at least 128.

    Returns:
        The image, uint8 `[size, size, 3]`, RGB, and the mask of the defect, bool `[size, size]`, all False for a good
        part.

    Raises:
        ValueError: The size is below 128, or the defect is not one of DEFECTS.
    """
    if size_px < 128:
        raise ValueError(f"size_px is {size_px}, expected at least 128: the stamped letters need that size.")
    if defect is not None and defect not in DEFECTS:
        raise ValueError(f"Unknown defect {defect!r}: choose one of {', '.join(DEFECTS)}.")
    part_rng, defect_rng, sensor_rng = rng.spawn(3)
    part = Part.draw(part_rng)
    texture_seed = int(part.texture.integers(2**63))
    grid = Grid.build(size_px, part.centre_xy, part.rotation_rad)

    radiance = radiance_of(part, grid, np.random.default_rng(texture_seed))
    mask = np.zeros(radiance.shape[:2], dtype=np.bool_)
    if defect is not None:
        defective = add_defect(part, defect, defect_rng)
        changed = radiance_of(defective, grid, np.random.default_rng(texture_seed))
        mask = np.abs(changed - radiance).max(axis=2) > VISIBLE
        radiance[mask] = changed[mask]
    return exposed(radiance, grid, part, sensor_rng), mask


def write_dataset(
    folder: Path, *, train: int, test: int, seed: int, size_px: int = REFERENCE_PX, quality: int = 95
) -> None:
    """Write an MVTec-layout folder: `train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>`.

    Image k of a kind depends on the seed, the kind and k alone, so a larger folder begins with the images of a smaller
    one.

    Args:
        folder: The folder to write; created if missing.
        train: Number of good training images.
        test: Number of test images of each kind: good and every defect.
        seed: Seed of all images, from 0.
        size_px: Width and height of the images, pixels.
        quality: JPEG quality, 1 to 100. Masks are PNG.
    """
    kinds: list[tuple[str, Defect | None, int]] = [("train/good", None, train), ("test/good", None, test)]
    kinds += [(f"test/{defect}", defect, test) for defect in DEFECTS]
    with Progress(transient=True) as progress:
        task = progress.add_task("Rendering parts", total=sum(count for _, _, count in kinds))
        for kind, (subfolder, defect, count) in enumerate(kinds):
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
            if defect is not None:
                (folder / "ground_truth" / defect).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image, mask = render_part(np.random.default_rng([seed, kind, index]), defect, size_px=size_px)
                _write(folder / subfolder / f"{index:03d}.jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
                if defect is not None:
                    _write(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255, [])
                progress.advance(task)


def _write(path: Path, pixels: ImageArray, options: list[int]) -> None:
    encoded, data = cv2.imencode(path.suffix, pixels, options)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode {path.name}: reinstall opencv-python-headless.")
    path.write_bytes(data.tobytes())


def main(
    folder: Annotated[Path, typer.Argument(help="The MVTec-layout folder to write.")],
    train: Annotated[int, typer.Option(min=1, help="Number of good training images.")] = 120,
    test: Annotated[int, typer.Option(min=0, help="Number of test images of each kind.")] = 12,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=128, help="Width and height of the images, pixels.")] = REFERENCE_PX,
) -> None:
    """Render the demo product: good washers, and washers with five kinds of defects and exact masks."""
    write_dataset(folder, train=train, test=test, seed=seed, size_px=size)


if __name__ == "__main__":
    typer.run(main)
