"""Draw the image of the README: the shipped samples with heatmaps and verdicts of the shipped model (`make images`)."""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from service.bundle.arrays import UInt8Image
from service.bundle.bundle import newest_bundle
from service.inspection.decoding import decoder
from service.inspection.heatmap import render
from service.inspection.inspector import Inspector
from service.inspection.runtime.configure import configure
from service.recipes.recipe import Recipe

SHOWN = ("good-3", "scratch", "burr", "missing-hole")
TILE_PX = 320
GAP_PX = 8
CAPTION_PX = 34
COLOURS = {"pass": (46, 160, 67), "review": (219, 154, 4), "fail": (207, 34, 46)}
WHITE = 255


def main(
    models: Annotated[Path, typer.Option(help="Model repository.")] = Path("models"),
    product: Annotated[str, typer.Option(help="Product whose newest bundle is used.")] = "washer",
    samples: Annotated[Path, typer.Option(help="Folder of the sample images.")] = Path("docs/samples"),
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("docs/images"),
) -> None:
    """Write verdicts.jpg: the samples above, their heatmaps and verdicts below."""
    configure()
    folder = models / product
    bundle = newest_bundle(folder) if folder.is_dir() else None
    if bundle is None:
        raise typer.BadParameter(f"there is no bundle in {folder}: run `make demo-bundle`")
    inspector = Inspector.load(bundle)
    try:
        columns = [_column(inspector, samples / f"{name}.jpg") for name in SHOWN]
    finally:
        inspector.close()
    gap = np.full((columns[0].shape[0], GAP_PX, 3), WHITE, np.uint8)
    sheet = np.hstack([part for column in columns for part in (column, gap)][:-1])
    out.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    (out / "verdicts.jpg").write_bytes(data.tobytes())


def _column(inspector: Inspector, path: Path) -> UInt8Image:
    """Return image, overlay and verdict, one below the other: uint8 [H, TILE_PX, 3], RGB."""
    criteria = Recipe.default(inspector.card.scores).criteria
    data = path.read_bytes()
    inspection = inspector.inspect(data, criteria)
    rgb = decoder.decode(data, inspector.options.limits)
    overlay = render(rgb, inspection.anomaly_map, inspector.heatmap_scale(criteria.thresholds), inspection.regions)
    caption = np.full((CAPTION_PX, TILE_PX, 3), WHITE, np.uint8)
    text = f"{inspection.decision}   score {inspection.score:.3f}   p {inspection.p_value:.3f}"
    cv2.putText(caption, text, (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, COLOURS[inspection.decision], 1, cv2.LINE_AA)
    tiles = [cv2.resize(tile, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA) for tile in (rgb, overlay)]
    gap = np.full((GAP_PX, TILE_PX, 3), WHITE, np.uint8)
    return np.asarray(np.vstack([tiles[0], gap, tiles[1], caption]), np.uint8)


if __name__ == "__main__":
    typer.run(main)
