"""Inspecting files without a server: the same core, the same recipe, a table at the end."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from service.bundle.bundle import Bundle, bundle_folders
from service.deployment.reference_scores import References
from service.deployment.replay import newest_since
from service.errors import PlumblineError
from service.inspection import heatmap
from service.inspection.decision import Decision
from service.inspection.decoding import decoder
from service.inspection.inspector import Inspector
from service.inspection.runtime.threads import cpu_quota
from service.recipes.quality_check import check_quality
from service.recipes.recipe import Recipe
from service.settings import Settings
from service.store.choices import BundleChoices
from service.store.database import open_engine
from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.files import ArtefactFiles
from service.store.ids import parse_id
from service.store.inspections import get_inspection
from service.store.recipes import current_recipe
from service.store.records import InspectionRecord
from service.store.store import Store
from service.store.writer import GroupWriter

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class FileResult:
    """What became of one file; `reasons` says why it is invalid, `error` why it could not be read or judged.
    `decision_by_score` differs from `decision` where region filters softened it.
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
    """The files that are named and, sorted, the images in the folders that are named.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(path)
    return found


def bundle_without_server(settings: Settings, product: str) -> Path:
    """The folder of the bundle that the service would serve: the one that was chosen last, else the newest.

    Raises:
        StoreUnavailable: There is a database and it does not answer.
    """
    with engine_if_there(settings) as engine:
        choice = None if engine is None else BundleChoices(engine).current(product, "active")
    if choice is not None and choice.version is not None:
        return settings.models / product / choice.version
    return bundle_folders(settings.models / product)[0]


def recipe_without_server(settings: Settings, bundle: Bundle) -> tuple[Recipe, Sequence[float]]:
    """The recipe that the service would judge by, if it was ever told one for this bundle; else the default.

    Returns:
        The recipe, and the scores of good images that p-values are taken against, ascending.

    Raises:
        StoreUnavailable: There is a database and it does not answer.
    """
    with engine_if_there(settings) as engine:
        current = None if engine is None else current_recipe(engine, bundle.manifest.product)
        if engine is not None and current is not None and current.bundle_digest == bundle.digest:
            return current.recipe, References(engine).scores(bundle, current.recipe)
    return Recipe.default(bundle.card.scores), bundle.card.scores


@contextmanager
def engine_if_there(settings: Settings) -> Iterator[Engine | None]:
    """The service's database; None where none was ever made, because asking must not make one."""
    database = make_url(settings.database).database
    if not settings.database_url and not (database and Path(database).exists()):
        yield None
        return
    engine = open_engine(settings.database)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def store_if_there(settings: Settings) -> Iterator[Store]:
    """The service's store, whether the service runs or not.

    Raises:
        StoreUnavailable: There is none, or it does not answer.
    """
    with engine_if_there(settings) as engine:
        if engine is None:
            raise StoreUnavailable(f"there is none in {settings.data}")
        yield Store(engine, ArtefactFiles(settings.data / "inspections"), GroupWriter(engine))


def stored_inspections(
    store: Store, ids: Sequence[str], product: str | None, since: str | None, limit: int
) -> Iterator[tuple[str, InspectionRecord | PlumblineError]]:
    """The inspections that somebody names by id or by product and time; where one is not there, the reason.

    Raises:
        ValueError: `since` is no point in time.
        StoreUnavailable: The database does not answer.
    """
    if not ids:
        # Without a zone it is this machine's clock that is meant.
        moment = None if since is None else datetime.fromisoformat(since).astimezone()
        yield from ((row.id, row) for row in newest_since(store.engine, product, moment, limit))
        return
    for name in ids:
        try:
            yield name, get_inspection(store.engine, parse_id(name))
        except UnknownInspection as error:
            yield name, error


def inspect_files(
    inspector: Inspector,
    recipe: Recipe,
    reference: Sequence[float],
    files: Sequence[Path],
    heatmaps: Path | None,
    media_type: str,
) -> Iterator[FileResult]:
    """Inspect files, in their order. One that cannot be judged is reported and stops nobody.

    Args:
        inspector: The product's.
        recipe: What to judge by.
        reference: What p-values are taken against.
        files: Encoded images.
        heatmaps: Folder for heatmaps, None for none.
        media_type: Their format.
    """
    if heatmaps is not None:
        heatmaps.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cpu_quota()) as pool:
        yield from pool.map(lambda file: _inspect(inspector, recipe, reference, file, heatmaps, media_type), files)


def _inspect(
    inspector: Inspector,
    recipe: Recipe,
    reference: Sequence[float],
    file: Path,
    heatmaps: Path | None,
    media_type: str,
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
            scale = inspector.heatmap_scale(judged.thresholds, recipe.heatmap.low, recipe.heatmap.high)
            rgb = decoder.decode(data, inspector.options.limits, rules)
            drawn = heatmap.render(rgb, judged.anomaly_map, scale, judged.regions, judged.judged)
            # Files of the same name may come from different folders; the hash keeps their heatmaps apart.
            suffix = heatmap.HEATMAP_MEDIA_TYPES[media_type]
            saved = heatmaps / f"{file.stem}-{judged.image.sha256[:8]}{suffix}"
            saved.write_bytes(heatmap.encode(drawn, media_type))
    except PlumblineError as error:
        return FileResult(file, error=error.detail)
    except OSError as error:
        return FileResult(file, error=f"{error.filename}: {error.strerror}")
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


def write_results(results: Sequence[FileResult], path: Path) -> None:
    """Write a table: JSON with everything, or CSV with one line per file.

    Args:
        results: What to write.
        path: Ends in `.json` or `.csv`.
    """
    rows = [asdict(result) for result in results]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2, default=str) + "\n", encoding="utf-8")
        return
    columns = [name for name in FileResult.__dataclass_fields__ if name != "timings_ms"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"regions": len(row["regions"])})
