"""Plates in folders and files with hostile names."""

from pathlib import Path

from tests.training.small_product import write_plates
from training.run_record import CurvePoint

KIND = "<img src=x onerror=alert(1)> & \"spot\" 'a'"
FILE = '"><b onclick="x">{{ 7*7 }}&amp;\n\u202egnp.png'
GROUPS = ("<\u2215table><style>*{}<b>", "lot&2 \"q\" 'r'")
CURVE = [CurvePoint(step=step, losses={"loss": 100 / step, "distil": 60 / step}) for step in (1, 2, 3)]


def write_hostile_plates(root: Path) -> Path:
    """Write plates in which folders and files have names with markup and control characters."""
    write_plates(root)
    (root / "test/spot").rename(root / "test" / KIND)
    (root / "ground_truth/spot").rename(root / "ground_truth" / KIND)
    for image in sorted((root / "test/spots").iterdir())[:1]:
        image.rename(image.with_name(FILE))
        mask = root / "ground_truth/spots" / f"{image.stem}_mask.png"
        mask.rename(mask.with_name(f"{FILE.removesuffix('.png')}_mask.png"))
    for number, image in enumerate(sorted((root / "train/good").iterdir())):
        folder = root / "train/good" / GROUPS[number % 2]
        folder.mkdir(exist_ok=True)
        image.rename(folder / image.name)
    return root
