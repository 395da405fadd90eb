"""Calibration and evaluation run the exported graph with the service's code on the original files."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import precision_recall_curve, roc_auc_score

from service.bundle.bundle import Bundle
from service.bundle.card import ImageSizes
from service.inspection.decision import Decision
from service.inspection.heatmap import HeatmapScale, render
from service.inspection.inspector import Inspector
from service.inspection.scoring import image_score
from service.recipes.recipe import Recipe
from tests.training.small_method import SmallMethod
from tests.training.small_product import build_bundle, write_plates
from training.calibrate import calibrate
from training.dataset import load_prepared, scan, scan_test
from training.errors import MaskMismatch, UnreadableImage
from training.evaluate import Evaluation, by_defect, evaluate, summary_table
from training.masks import read_mask
from training.pipeline import inspector_options
from training.report.charts import histogram, precision_recall
from training.report.overlays import TRUTH_RGB, draw_overlay
from training.report.page import write_report


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(data, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def inspector(bundle: Bundle) -> Iterator[Inspector]:
    inspector = Inspector.load(bundle.path, inspector_options(threads=1, provider="cpu"))
    yield inspector
    inspector.close()


@pytest.fixture(scope="module")
def evaluation(inspector: Inspector, data: Path) -> Evaluation:
    return evaluate(inspector, scan_test(data), data=data)


@pytest.mark.slow
def test_card_holds_the_quality_of_the_image_of_every_score(bundle: Bundle, inspector: Inspector, data: Path) -> None:
    card = bundle.card
    assert card.quality_of_score is not None
    assert card.quality is not None
    images = [inspector.read(path.read_bytes()) for path in scan(data).held_out]
    measured = {inspector.score(image, inspector.infer(image)).score: image.quality for image in images}

    for name, values in card.quality_of_score:
        expected = [getattr(measured[score], name) for score in card.scores]
        assert values == pytest.approx(expected)
        assert (min(values), max(values)) == (getattr(card.quality, name).low, getattr(card.quality, name).high)


@pytest.mark.slow
def test_card_holds_the_scores_of_the_held_out_images(bundle: Bundle, data: Path) -> None:
    """Compare with PyTorch: decode and prepare, run the network, apply the score rule."""
    images = load_prepared(scan(data).held_out, bundle.manifest.input)
    with torch.inference_mode():
        maps, gains = SmallMethod()(torch.from_numpy(images))
    rule = bundle.manifest.score_rule
    expected = sorted(image_score(m * float(g), rule) for m, g in zip(maps.numpy(), gains, strict=True))

    assert bundle.card.scores == pytest.approx(expected, rel=1e-4)
    assert bundle.card.provider == "cpu"
    values = (maps * gains[:, None, None]).numpy()
    assert bundle.card.map_median == pytest.approx(float(np.median(values)), rel=1e-3)
    assert bundle.card.map_q99 == pytest.approx(float(np.quantile(values, 0.99)), rel=1e-3)


def test_calibration_keeps_the_sessions_and_reports_progress(inspector: Inspector, data: Path) -> None:
    seen: list[int] = []

    card = calibrate(inspector, scan(data).held_out[:6], ["monday"] * 4 + ["tuesday"] * 2, "folder", seen.append)

    assert [(group.name, group.count) for group in card.groups] == [("monday", 4), ("tuesday", 2)]
    assert card.grouped_by == "folder"
    assert card.days is not None
    monday = sorted(inspector.measure(path.read_bytes()).score for path in scan(data).held_out[:4])
    assert [score for score, day in zip(card.scores, card.days, strict=True) if day == "monday"] == monday
    assert seen == [1, 2, 3, 4, 5, 6]


def test_calibration_names_a_damaged_image(inspector: Inspector, tmp_path: Path) -> None:
    damaged = tmp_path / "part-17.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n but no more")

    with pytest.raises(UnreadableImage, match=r"part-17\.png"):
        calibrate(inspector, [damaged], ["all"], "none")


def test_figures_follow_from_scores_and_decisions(evaluation: Evaluation) -> None:
    defective = [image.defective for image in evaluation.images]
    scores = [image.score for image in evaluation.images]
    good = [image for image in evaluation.images if not image.defective]

    assert len(evaluation.images) == 18
    assert evaluation.figures["image_auroc"] == pytest.approx(roc_auc_score(defective, scores))
    assert evaluation.figures["image_auroc"] > 0.95
    assert evaluation.figures["pixel_auroc"] > 0.8
    assert 0 < evaluation.figures["aupro"] <= 1
    rejected = sum(image.decision is Decision.FAIL for image in good) / len(good)
    assert evaluation.figures["false_reject_rate"] == rejected
    for image in evaluation.images:
        assert (image.decision is Decision.FAIL) == (image.score > evaluation.recipe.fail_threshold)


def test_decisions_of_each_kind_add_up(evaluation: Evaluation) -> None:
    table = by_defect(evaluation.images)

    assert list(table) == ["good", "spot", "spots"]
    assert sum(table["good"][decision] for decision in ("pass", "review", "fail")) == 8
    missed = table["spot"]["pass"] + table["spots"]["pass"]
    assert evaluation.figures["miss_rate"] == pytest.approx(missed / 10)


def test_without_masks_pixel_figures_are_omitted_with_a_note(
    inspector: Inspector, evaluation: Evaluation, data: Path
) -> None:
    unmasked = [replace(image, mask=None) for image in scan_test(data)]

    result = evaluate(inspector, unmasked)

    assert result.notes == ("there are no masks, so pixel figures are omitted",)
    assert not [name for name in result.figures if "pixel" in name or name == "aupro"]
    assert result.figures["image_auroc"] == evaluation.figures["image_auroc"]


def test_defect_without_mask_is_excluded_from_pixel_figures_and_counted(inspector: Inspector, data: Path) -> None:
    images = scan_test(data)
    images[-1] = replace(images[-1], mask=None)

    result = evaluate(inspector, images)

    assert result.notes == ("defective images without a mask, excluded from the pixel figures: 1",)
    assert "pixel_auroc" in result.figures


def test_mask_of_another_size_is_refused(inspector: Inspector, data: Path) -> None:
    images = scan_test(data)
    wrong = replace(images[-1], mask=images[-1].path.parent.parent / "wrong.png")
    assert wrong.mask is not None
    wrong.mask.write_bytes(_tiny_png())

    with pytest.raises(MaskMismatch, match="80x72"):
        evaluate(inspector, [images[0], wrong])


def test_json_and_table_hold_the_same_figures(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write_json(tmp_path / "evaluation.json")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    console = Console(width=120, record=True)
    console.print(summary_table(evaluation))

    assert written["figures"] == evaluation.figures
    assert len(written["images"]) == 18
    assert f"{100 * evaluation.figures['aupro']:.2f} %" in console.export_text()


class _Collector(HTMLParser):
    """Collects the attributes of every tag, and checks that tags are nested properly."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "polyline", "image"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_report_is_one_self_contained_page(evaluation: Evaluation, inspector: Inspector, tmp_path: Path) -> None:
    write_report(evaluation, inspector, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    parsed = _Collector()
    parsed.feed(page)

    assert parsed.open == []
    assert not re.search(r"https?://|<script|<link|url\(", page)
    sources = [attrs["src"] or "" for tag, attrs in parsed.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert f"{100 * evaluation.figures['image_auroc']:.2f} %" in page
    for image in sorted(evaluation.images, key=lambda i: -i.score):
        if image.false_reject:
            assert f"good/{image.path.name}" in page


def test_report_shows_the_worst_misses_first(evaluation: Evaluation, inspector: Inspector, tmp_path: Path) -> None:
    """With a fail threshold above all scores every defect is missed; the lowest score comes first."""
    high = max(image.score for image in evaluation.images) * 2
    recipe = evaluation.recipe.model_copy(update={"fail_threshold": high, "review_threshold": high})
    images = tuple(replace(image, decision=Decision.PASS) for image in evaluation.images)

    write_report(replace(evaluation, recipe=recipe, images=images), inspector, tmp_path / "report.html")

    misses = (tmp_path / "report.html").read_text().split("<h2>Misses</h2>")[1]
    shown = [f"{defect}/{name}" for defect, name in re.findall(r"<figcaption>(\w+)/(\S+)", misses)]
    defective = sorted((i for i in evaluation.images if i.defective), key=lambda image: image.score)
    assert "10 of 10 defective parts pass" in misses
    assert shown == [f"{image.defect}/{image.path.name}" for image in defective[:8]]


def test_histogram_holds_every_image_and_both_thresholds(evaluation: Evaluation) -> None:
    drawn = histogram(evaluation)

    assert 0 <= drawn.review_x <= drawn.fail_x <= 640
    assert max(max(bar.good, bar.defective) for bar in drawn.bars) == pytest.approx(240)
    assert drawn.logarithmic
    beyond = [bar for bar in drawn.bars if bar.x > drawn.fail_x and bar.defective]
    assert beyond, "defective parts lie beyond the fail threshold"


def test_no_misses_are_shown_where_there_are_none(evaluation: Evaluation, inspector: Inspector, tmp_path: Path) -> None:
    images = tuple(
        replace(image, decision=Decision.FAIL if image.defective else Decision.PASS) for image in evaluation.images
    )

    write_report(replace(evaluation, images=images), inspector, tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    misses = page.split("<h2>Misses</h2>")[1].split("<h2>")[0]
    rejects = page.split("<h2>False rejects</h2>")[1].split("<h2>")[0]
    assert "0 of 10 defective parts pass." in misses
    assert "0 of 8 good parts fail." in rejects
    assert "<figure>" not in misses + rejects
    lowest, rest = page.split("<h2>Defective parts with the lowest scores</h2>")[1].split("<h2>", 1)
    assert lowest.count("<figure>") == 8
    assert rest.split("<h2>Calibration card</h2>")[0].count("<figure>") == 2, "the other two of ten are the best"


def test_report_states_data_date_bounds_and_notes(evaluation: Evaluation, inspector: Inspector, tmp_path: Path) -> None:
    write_report(evaluation, inspector, tmp_path / "report.html")
    page = " ".join((tmp_path / "report.html").read_text().split())

    assert str(evaluation.data) in page
    assert f"{evaluation.measured_at:%Y-%m-%d %H:%M} UTC" in page
    assert "≤ 9.1 % on average, ≤ 26 % with 95 % confidence (n = 10)" in page
    assert "Few calibration images" in page
    assert "One capture group" in page


def test_report_has_intervals_and_says_how_they_are_computed(
    evaluation: Evaluation, inspector: Inspector, tmp_path: Path
) -> None:
    write_report(evaluation, inspector, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()

    assert set(evaluation.intervals) == set(evaluation.figures)
    for name, (low, high) in evaluation.intervals.items():
        assert low - 1e-3 <= evaluation.figures[name] <= high + 1e-3, name
        assert f"{100 * low:.1f} to {100 * high:.1f} %" in page
    assert "Hanley-McNeil" in page
    assert "bootstrap" in page
    assert "Clopper-Pearson" in page


def test_report_has_the_curves_with_titled_axes_and_ticks(
    evaluation: Evaluation, inspector: Inspector, tmp_path: Path
) -> None:
    write_report(evaluation, inspector, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()

    for title in (
        "ROC curve",
        "Precision-recall curve",
        "image score (no unit)",
        "share of the images of a kind (%)",
        "false-positive rate (%",
        "true-positive rate (%",
        "recall (%",
        "precision (%",
        "PRO curve",
        "overlap per region (mean, %)",
    ):
        assert title in page
    assert page.count(">20%</text>") == 6


def test_precision_recall_curve_agrees_with_scikit_learn(evaluation: Evaluation) -> None:
    points = [tuple(map(float, point.split(","))) for point in precision_recall(evaluation.images).points.split()]
    scores = [image.score for image in evaluation.images]
    precision, recall, _ = precision_recall_curve([image.defective for image in evaluation.images], scores)

    found = {(round(x / 240, 3), round(1 - y / 240, 3)) for x, y in points[1:]}
    assert found <= {(round(r, 3), round(p, 3)) for r, p in zip(recall, precision, strict=True)}
    assert points[-1][0] == 240, "recall reaches 1"


def test_legend_has_the_colours_of_the_heatmap_with_a_mark_at_the_fail_threshold(
    evaluation: Evaluation, inspector: Inspector, tmp_path: Path
) -> None:
    write_report(evaluation, inspector, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    bar = _decode(re.findall(r'<image href="(data:[^"]+)"', page)[0])
    mark = round(320 / 1.5)

    flat = np.full((18, 60, 3), 160, np.uint8)
    for place, value in ((mark, 1.0), (5, 5 / 320 * 1.5), (315, 315 / 320 * 1.5)):
        level = np.full((18, 60), value, np.float32)
        expected = render(flat, level, HeatmapScale(low=0.0, high=1.0))[9, 30].astype(int)
        assert np.abs(bar[9, place].astype(int) - expected).max() < 30
    assert f'<line x1="{320 / 1.5}"' in page
    assert "fail threshold</text>" in page


def test_overlays_outline_the_ground_truth(inspector: Inspector, data: Path) -> None:
    image = next(image for image in scan_test(data) if image.defective)
    recipe = Recipe.default(inspector.card.scores)

    def is_green(rgb: np.ndarray) -> np.ndarray:
        return np.asarray((rgb == TRUTH_RGB).all(axis=2))

    _, overlay, _ = draw_overlay(inspector, image.path, image.mask, recipe.criteria)
    _, plain, _ = draw_overlay(inspector, image.path, None, recipe.criteria)

    mask = read_mask(image.mask, (80, 72))
    assert not is_green(plain).any()
    green = is_green(overlay)
    border = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert (green == border).all()


def _decode(url: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def test_card_records_the_sizes_of_all_good_images(inspector: Inspector, data: Path) -> None:
    sizes = [(100, 50), (60, 90)]

    card = calibrate(inspector, scan(data).held_out[:2], ["all"] * 2, "none", training_sizes=sizes)

    assert card.image_size == ImageSizes(
        min_width=60, max_width=100, min_height=50, max_height=90, min_aspect=60 / 90, max_aspect=2.0
    )


def _tiny_png() -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((3, 4), np.uint8))[1])
