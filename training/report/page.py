"""The HTML report of a bundle: one self-contained file without scripts, with embedded images and charts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.inspection.calibration import describe_card
from service.inspection.heatmap import FULL_SCALE
from service.inspection.image_files import path_text
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe
from training import intervals
from training.evaluate import LABELS, Evaluation, by_defect
from training.files import write_text
from training.html_pages import Style, template_environment
from training.pipeline import Advance
from training.rates import rates_by_kind, rates_of_all
from training.report import charts
from training.report.card import certify_parity, describe_measures, describe_thresholds, list_missing
from training.report.origin import Origin, gather_origin
from training.report.overlays import LEGEND_WH, TRUTH_RGB, Montage, colour_scale
from training.selected import describe_selected

NO_TEST_SET = (
    "No test images were given, so nothing about defects is measured (--data DIR with test/good and test/KIND)."
)


def no_test_split(data: Path) -> str:
    """Return why there is no evaluation where a folder has no test split, as a sentence."""
    return f"{path_text(data)} has no folder test, so nothing about defects is measured (test/good and test/KIND)."


def write_report(
    evaluation: Evaluation | None,
    inspector: Inspector,
    path: Path,
    origin: Origin | None = None,
    *,
    unmeasured: str = NO_TEST_SET,
    stage: Callable[[str, int], Advance] | None = None,
) -> None:
    """Write the report, atomically.

    Args:
        evaluation: The result of `evaluate`; None without test images.
        inspector: The same bundle; it computes the overlays, on the product's fixed scale. No other thread may use it.
        path: The HTML file to write; its folder must exist.
        origin: The origin of the bundle; None uses what the bundle alone records.
        unmeasured: Why there is no evaluation, as a sentence.
        stage: Begins a stage of the progress display, see `training.pipeline.Reporter`.

    Raises:
        UnreadableImage: A test image or a mask cannot be read any more.
        OSError: The file cannot be written.
    """
    bundle = inspector.bundle
    origin = origin or gather_origin(bundle)
    style = Style.load()
    missing = [*([] if evaluation else [unmeasured]), *origin.missing, *list_missing(bundle)]
    recipe = Recipe.default(bundle.card.scores) if evaluation is None else evaluation.recipe
    weak = [f"Weak bundle: {reason}." for reason in bundle.manifest.training.weak]
    page = (
        template_environment()
        .get_template("report.html.j2")
        .render(
            bundle=bundle,
            manifest=bundle.manifest,
            card=bundle.card,
            evaluation=evaluation,
            recipe=recipe,
            origin=origin,
            missing=missing,
            notes=weak + describe_card(bundle.card),
            labels=LABELS,
            settings={name: _setting(value) for name, value in sorted(bundle.manifest.training.config.items())},
            selected=describe_selected(bundle.manifest.training.selected),
            training_chart=origin.record and charts.training_chart(origin.record.curve),
            thresholds=describe_thresholds(bundle.card, recipe),
            measures=describe_measures(bundle.card),
            calibration=charts.calibration_histogram(bundle.card.scores, recipe.thresholds),
            parity=certify_parity(inspector),
            unit_ticks=charts.UNIT_TICKS,
            width=charts.WIDTH,
            height=charts.HEIGHT,
            style=style.sheet,
            style_hash=style.digest,
            **({} if evaluation is None else _measured(evaluation, inspector, stage)),
        )
    )
    write_text(path, page)


def _measured(
    evaluation: Evaluation, inspector: Inspector, stage: Callable[[str, int], Advance] | None
) -> dict[str, Any]:
    """Return the parts of the report that need test images."""
    curves = [charts.roc(evaluation.images), charts.precision_recall(evaluation.images)]
    if evaluation.pro_curve is not None:
        curves.append(charts.per_region_overlap(evaluation.pro_curve))
    montage = Montage(evaluation)
    advance = stage("draw overlays", montage.total) if stage else lambda *_: None
    return {
        "by_defect": by_defect(evaluation.images),
        "rates": rates_of_all(evaluation.images)
        + [kind for kind in rates_by_kind(evaluation.images) if kind.defective],
        "interval_methods": intervals.METHODS,
        "histogram": charts.histogram(evaluation),
        "curves": curves,
        "sections": montage.draw(inspector, lambda done: advance(done, "")),
        "colour_scale": colour_scale(),
        "fail_position": LEGEND_WH[0] / FULL_SCALE,
        "legend_width": LEGEND_WH[0],
        "truth_colour": "rgb" + str(TRUTH_RGB),
    }


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
