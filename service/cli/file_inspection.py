"""Inspection of image files with the same core as the service, and the table of results."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.bundle.arrays import UInt8Image
from service.errors import PlumblineError
from service.inspection import heatmap
from service.inspection.decision import Decision
from service.inspection.decoding import decoder
from service.inspection.image_files import find_image_files, path_text
from service.inspection.inspector import Inspector
from service.inspection.records import Inspection
from service.inspection.runtime.threads import cpu_quota
from service.recipes.quality_check import check_quality
from service.recipes.recipe import Recipe
from service.spreadsheets import guard_formulas


@dataclass(frozen=True)
class HeatmapOptions:
    """How heatmaps are written.

    Attributes:
        folder: Folder to which they are written.
        media_type: Their format, one of `HEATMAP_MEDIA_TYPES`.
        colormap: Their colour map, one of `COLORMAPS`.
        quality: JPEG and WebP quality.
        legend: Whether a legend is drawn below the image.
    """

    folder: Path
    media_type: str
    colormap: str
    quality: int
    legend: bool = False


@dataclass(frozen=True)
class FileResult:
    """The result for one file.

    Attributes:
        file: The file.
        decision: pass, review, fail or invalid; None if the file could not be inspected.
        decision_by_score: The decision without region filters.
        score: Image score.
        p_value: p-value of the score.
        fail_threshold: Scores above it fail.
        review_threshold: Scores above it need review.
        regions: Anomalous regions, as in the HTTP API.
        sha256: Hash of the file.
        timings_ms: Milliseconds per stage.
        heatmap: The file with the heatmap.
        reasons: Why the quality check rejected the image.
        error: Why the file could not be inspected.
    """

    file: Path
    decision: str | None = None
    decision_by_score: str | None = None
    score: float | None = None
    p_value: float | None = None
    fail_threshold: float | None = None
    review_threshold: float | None = None
    regions: tuple[dict[str, Any], ...] = ()
    sha256: str | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    heatmap: Path | None = None
    reasons: str | None = None
    error: str | None = None


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and the image files in the given folders, sorted.

    Raises:
        FileNotFoundError: A path does not exist.
        OSError: A folder cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += find_image_files(path)
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(path)
    return found


def inspect_files(
    inspector: Inspector,
    recipe: Recipe,
    reference: Sequence[float],
    files: Sequence[Path],
    heatmaps: HeatmapOptions | None,
) -> Iterator[FileResult]:
    """Inspect files in the given order. A file that cannot be inspected does not stop the others.

    Args:
        inspector: Inspector of the product.
        recipe: Recipe in force.
        reference: Scores of good images from which p-values are computed, ascending.
        files: Encoded images.
        heatmaps: How heatmaps are written; None if they are not wanted.
    """
    if heatmaps is not None:
        heatmaps.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cpu_quota()) as pool:
        yield from pool.map(lambda file: _inspect(inspector, recipe, reference, file, heatmaps), files)


def _inspect(
    inspector: Inspector,
    recipe: Recipe,
    reference: Sequence[float],
    file: Path,
    heatmaps: HeatmapOptions | None,
) -> FileResult:
    try:
        data = file.read_bytes()
        rules = recipe.pixels.rules(None)
        image = inspector.read(data, rules)
        if violations := check_quality(image, inspector.quality_limits, recipe):
            return FileResult(
                file,
                decision=Decision.INVALID.value,
                sha256=image.sha256,
                reasons=" ".join(violation.detail for violation in violations),
            )
        result = inspector.infer(image)
        judged = inspector.finish(image, result, recipe.criteria, reference)
        saved = None
        if heatmaps is not None:
            rgb = decoder.decode(data, inspector.options.limits, rules)
            saved = _write_heatmap(heatmaps, file, inspector, recipe, judged, rgb)
    except PlumblineError as error:
        return FileResult(file, error=error.detail)
    except OSError as error:
        return FileResult(file, error=f"{path_text(error.filename or file)}: {error.strerror}")
    return FileResult(
        file,
        decision=judged.decision.value,
        decision_by_score=judged.by_score.value,
        score=judged.score,
        p_value=judged.p_value,
        fail_threshold=judged.thresholds.fail,
        review_threshold=judged.thresholds.review,
        regions=tuple(asdict(region) for region in judged.regions),
        sha256=judged.image.sha256,
        timings_ms={stage: round(seconds * 1000, 3) for stage, seconds in judged.timings.items()},
        heatmap=saved,
    )


def _write_heatmap(
    options: HeatmapOptions, file: Path, inspector: Inspector, recipe: Recipe, judged: Inspection, rgb: UInt8Image
) -> Path:
    scale = inspector.heatmap_scale(judged.thresholds, recipe.heatmap.low, recipe.heatmap.high)
    drawn = heatmap.render(
        rgb, judged.anomaly_map, scale, judged.regions, judged.judged,
        colormap=options.colormap, fail_threshold=judged.thresholds.fail,
    )  # fmt: skip
    if options.legend:
        legend = heatmap.Legend(
            decision=judged.decision.value,
            by_score=judged.by_score.value,
            score=judged.score,
            p_value=judged.p_value,
            fail_threshold=judged.thresholds.fail,
            review_threshold=judged.thresholds.review,
            scale=scale,
            colormap=options.colormap,
        )
        drawn = heatmap.draw_legend(drawn, legend)
    # Files in different folders may have the same name; the hash makes the names of the heatmaps distinct.
    suffix = heatmap.HEATMAP_MEDIA_TYPES[options.media_type]
    saved = options.folder / f"{file.stem}-{judged.image.sha256[:8]}{suffix}"
    saved.write_bytes(heatmap.encode(drawn, options.media_type, options.quality))
    return saved


def write_results(results: Sequence[FileResult], path: Path) -> None:
    r"""Write the results as JSON with all fields, or as CSV with one row per file.

    Bytes of file names that are not UTF-8 are written as `\xNN`, so that the file is valid UTF-8. Texts of the CSV file
    that a spreadsheet program would run as a formula get an apostrophe.

    Args:
        results: The results.
        path: File to write; it ends in `.json` or `.csv`.
    """
    rows = [
        {name: path_text(value) if isinstance(value, Path) else value for name, value in asdict(result).items()}
        for result in results
    ]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        return
    columns = [name for name in FileResult.__dataclass_fields__ if name != "timings_ms"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            cells = row | {"regions": len(row["regions"])}
            # The names of files come from other programs.
            writer.writerow({k: guard_formulas(cell) if isinstance(cell, str) else cell for k, cell in cells.items()})
