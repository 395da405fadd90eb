"""The report of a small real bundle: complete, self-contained, accessible, and equal to `evaluate`."""

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from service.bundle.bundle import Bundle
from service.inspection.decision import Decision
from service.inspection.inspector import Inspector
from tests.browser import PHONE, Open, assert_accessible, assert_fits, served
from tests.training.report.hostile_plates import GROUPS, KIND
from tests.training.report.parsed_page import Page
from training.dataset import scan, scan_test
from training.evaluate import LABELS, Evaluation, by_defect, evaluate
from training.html_pages import IMAGE_SIDE
from training.intervals import rate_interval
from training.report.origin import gather_origin
from training.report.overlays import BEST_EACH, WORST_EACH, Montage
from training.report.page import no_test_split, write_report

SECTIONS = ("data", "training", "figures", "kinds", "scores", "curves", "overlays", "card", "parity", "bundle")


@pytest.fixture(scope="module")
def reports(
    evaluation: Evaluation, inspector: Inspector, run_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a report with all sections, and one without test images."""
    folder = tmp_path_factory.mktemp("report")
    write_report(evaluation, inspector, folder / "complete.html", gather_origin(inspector.bundle, run_dir, data))
    write_report(None, inspector, folder / "untested.html")
    return folder


@pytest.fixture(scope="module")
def complete(reports: Path) -> Page:
    return Page((reports / "complete.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def untested(reports: Path) -> Page:
    return Page((reports / "untested.html").read_text(encoding="utf-8"))


@pytest.fixture(params=["complete", "untested"])
def page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def bounds(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def test_every_section_is_there_and_linked(page: Page) -> None:
    assert set(SECTIONS) <= set(page.sections)
    links = [attrs["href"] for attrs in page.all("a")]
    assert links[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]
    assert {link.removeprefix("#") for link in links if link} <= set(page.sections)
    for name in SECTIONS:
        assert len(page.section(name).split()) > 4, f"{name} says nothing"


def test_page_is_self_contained_and_passes_its_own_strict_policy(page: Page) -> None:
    assert not re.search(r"https?:|<script|<link|<iframe|<object|@import|url\(|javascript:", page.text)
    sources = [attrs[name] or "" for tag, name in (("img", "src"), ("image", "href")) for attrs in page.all(tag)]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    names = {name for _, attrs in page.tags for name in attrs}
    assert not [name for name in names if name == "style" or name.startswith("on")]

    (policy,) = [a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_page_has_a_dark_and_a_printed_form(page: Page) -> None:
    assert "@media (prefers-color-scheme: dark)" in page.style
    assert "@media print" in page.style
    drawn = {"rect", "line", "polyline", "circle"}
    fixed = [attrs for tag, attrs in page.tags if tag in drawn and {"fill", "stroke"} & set(attrs)]
    assert len(fixed) <= 1, "only the colour of the outlines, which the images contain, is fixed"


def test_page_has_the_basics_of_accessibility(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert [level for level, _ in page.headings].count(1) == 1
    for (before, _), (level, title) in zip(page.headings, page.headings[1:], strict=False):
        assert level <= before + 1, f"{title} skips a level"
        assert title.strip()
    for attrs in page.all("img"):
        assert (attrs.get("alt") or "").strip()
    for attrs in page.all("svg"):
        assert attrs.get("aria-hidden") == "true" or (attrs.get("role") == "img" and attrs.get("aria-label"))
    for table in page.tables:
        assert table.caption
        assert all(tag == "th" and attrs.get("scope") == "col" for tag, attrs in table.cells[0]), table.caption
        for texts, row in zip(table.rows[1:], table.cells[1:], strict=True):
            assert all(texts), (table.caption, texts)
            assert row[0][1].get("scope") == "row" or "colspan" in row[0][1], table.caption
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["complete", "untested"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_page_is_accessible_in_a_browser(
    reports: Path, open_page: Open, name: str, colours: Literal["light", "dark"]
) -> None:
    with served(reports) as url:
        page = open_page(url, f"/{name}.html")
        page.emulate_media(color_scheme=colours)
        assert page.get_by_role("heading", level=1).is_visible()
        assert_accessible(page)
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        assert_fits(page)


def test_figures_and_intervals_are_those_of_evaluate(complete: Page, evaluation: Evaluation) -> None:
    rows = complete.table("Detection and localisation").body()

    assert {"image_auroc", "pixel_auroc", "aupro", "false_reject_rate"} <= set(evaluation.figures)
    expected = {
        LABELS[name]: [percent(value), bounds(evaluation.intervals[name])] for name, value in evaluation.figures.items()
    }
    assert rows == expected
    text = complete.section("figures")
    for method in ("Hanley-McNeil", "Clopper-Pearson", "bootstrap", "400 replicates", "seed 0"):
        assert method in text


def test_recall_and_false_rejects_at_both_thresholds_have_clopper_pearson_intervals(
    complete: Page, evaluation: Evaluation
) -> None:
    rows = complete.table("Rates at the thresholds").body()
    counts = by_defect(evaluation.images)

    assert list(rows) == ["all good parts", "all defective parts", *map(shown, sorted([KIND, "spots"]))]
    groups = {
        "all good parts": ["good"],
        "all defective parts": [KIND, "spots"],
        shown(KIND): [KIND],
        "spots": ["spots"],
    }
    for row, kinds in groups.items():
        total, failed, reviewed = (
            int(sum(counts[kind][key] for kind in kinds)) for key in ("images", "fail", "review")
        )
        cells = rows[row]
        assert cells[0] == str(total)
        assert cells[2:4] == [percent(failed / total), bounds(rate_interval(failed, total))]
        flagged = failed + reviewed
        assert cells[4:] == [percent(flagged / total), bounds(rate_interval(flagged, total))]
    assert rows["all good parts"][2] == percent(evaluation.figures["false_reject_rate"])
    assert rows["all defective parts"][4] == percent(1 - evaluation.figures["miss_rate"])


def test_names_are_text_and_never_markup(complete: Page, bundle: Bundle) -> None:
    assert {tag for tag, _ in complete.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section", "h1", "h2", "h3", "p"),
        *("ul", "li", "a", "div", "table", "caption", "tr", "th", "td", "code", "strong", "span", "dl", "dt", "dd"),
        *("figure", "figcaption", "img", "svg", "rect", "line", "polyline", "circle", "text", "image"),
    }
    assert complete.style.count("{") == complete.style.count("}") > 10
    assert len(complete.all("style")) == 1
    assert shown(KIND) in complete.section("kinds")
    captions = " ".join(complete.sections.values())
    assert "{{ 7*7 }}&amp;\\n\\u202egnp.png" in captions
    assert "\u202e" not in complete.text
    groups = complete.table("Capture groups").body()
    assert set(groups) == set(GROUPS)
    assert {group.name for group in bundle.card.groups} <= set(groups)


def shown(name: str) -> str:
    return " ".join(name.split())


def test_data_and_groups_are_those_of_the_bundle(complete: Page, bundle: Bundle) -> None:
    rows = complete.table("Good images").body()
    training, held_out = bundle.manifest.training.images, bundle.manifest.training.held_out

    assert rows["training"] == [str(training)] * 2
    assert rows["held out for the thresholds"] == [str(held_out)] * 2
    groups = complete.table("Capture groups").body()
    assert sum(int(row[0]) for row in groups.values()) == training
    assert sum(int(row[1]) for row in groups.values()) == held_out
    assert "Groups by sub-folders; held out as a whole for the thresholds: 1." in complete.section("data")
    missing = "Not in this report Not on the calibration card: figures on synthetic anomalies."
    assert complete.section("missing") == missing


def test_training_curve_is_drawn_with_the_values_at_both_ends(complete: Page) -> None:
    assert complete.table("Losses").body() == {"loss": ["100", "33.33"], "distil": ["60", "20"]}
    assert complete.text.count('aria-label="Training curve"') == 1


def test_montage_has_the_worst_and_the_best_with_outlines(complete: Page, evaluation: Evaluation) -> None:
    sections = {"misses", "false-rejects", "highest-good", "lowest-defective", "highest-defective", "lowest-good"}
    images = complete.all("img")
    shown_names = [attrs["alt"] for attrs in images[::2]]

    assert {"misses", "false-rejects"} < sections & set(complete.sections)
    assert len(set(shown_names)) == len(shown_names), "no image twice"
    for image, overlay in zip(images[::2], images[1::2], strict=True):
        assert (overlay["alt"] or "").startswith(f"Heatmap of {image['alt']}, regions found: ")
        is_defective = not (image["alt"] or "").startswith("good/")
        assert ("with the outline of the ground truth" in (overlay["alt"] or "")) == is_defective
    assert len(shown_names) == Montage(evaluation).total


def test_calibration_card_states_the_bounds_in_words(page: Page, bundle: Bundle) -> None:
    text = page.section("card")

    assert f"{len(bundle.card.scores)} held-out good images, measured on cpu" in text
    assert re.search(r"fail: scores above \S+ At most 4\.8 % of good parts fail, on average over calibrations\.", text)
    assert "For this calibration with its 20 images it is at most 14 %, with 95 % confidence." in text
    assert "1 % on average needs 99 held-out images." in text
    assert "At most 9.6 % of good parts fail or need review, on average over calibrations." in text
    measures = page.table("Ranges over the held-out images").body()
    assert measures["image score"][0] == f"{bundle.card.scores[0]:.4g}"
    assert measures["image score"][2] == f"{bundle.card.scores[-1]:.4g}"
    assert {"brightness (0 to 255)", "sharpness", "image width (pixels)"} <= set(measures)


def test_parity_certificate_has_both_comparisons(page: Page, bundle: Bundle) -> None:
    rows = page.table("Largest relative difference").body()
    parity = bundle.manifest.parity

    assert "Passed" in page.section("parity")
    assert rows["at export"] == [parity.provider, f"{parity.measured:.1e}", f"{parity.tolerance:.0e}"]
    now = rows[f"for this report, {len(bundle.golden)} golden samples"]
    assert now[0] == "cpu"
    assert float(now[1]) <= parity.tolerance


def test_bundle_is_identified_by_its_digest_and_files(page: Page, bundle: Bundle) -> None:
    assert bundle.digest in page.section("bundle")
    files_shown = page.table("Files").body()
    assert files_shown == {name: [str(entry.bytes), entry.sha256] for name, entry in bundle.manifest.files.items()}


def test_without_test_images_the_report_says_what_is_missing(untested: Page) -> None:
    missing = untested.section("missing")

    assert "No test images were given" in missing
    assert "no training curve" in missing
    for name in ("figures", "kinds", "curves"):
        assert "Not measured" in untested.section(name)
    assert untested.all("img") == []
    assert untested.text.count('aria-label="Histogram of the scores of the held-out good images"') == 1
    assert "not recorded" in untested.table("Capture groups").rows[1]


def test_figures_in_the_manifest_are_shown_as_recorded(inspector: Inspector, tmp_path: Path) -> None:
    manifest = inspector.bundle.manifest.model_copy(update={"evaluation": {"image_auroc": 0.875, "future": 0.5}})
    other = Inspector(replace(inspector.bundle, manifest=manifest), inspector.session, inspector.options, 0.0)
    try:
        write_report(None, other, tmp_path / "report.html", unmeasured=no_test_split(tmp_path))
    finally:
        other.batcher.close()
    page = Page((tmp_path / "report.html").read_text())

    assert page.table("As measured when the bundle was written").body() == {
        LABELS["image_auroc"]: ["87.50 %"],
        "future": ["50.00 %"],
    }
    assert "has no folder test" in page.section("missing")


def test_without_masks_there_is_no_pro_curve_and_that_is_said(inspector: Inspector, data: Path, tmp_path: Path) -> None:
    unmasked = evaluate(inspector, [replace(image, mask=None) for image in scan_test(data)])
    write_report(unmasked, inspector, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())

    titles = [title for _, title in page.headings]
    assert "ROC curve" in titles
    assert "PRO curve" not in titles
    assert "There is no PRO curve, because there are no masks." in page.section("curves")
    assert "there are no masks, so pixel figures are omitted" in page.section("figures")
    assert "AUPRO" not in " ".join(page.table("Detection and localisation").body())
    assert "no mask" in " ".join(page.sections.values())
    assert not any("outline" in (attrs["alt"] or "") for attrs in page.all("img"))


def test_test_images_that_the_bundle_was_made_from_are_counted(
    inspector: Inspector, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data / "test", copy / "test")
    for number, path in enumerate(scan(data).train[:3]):
        shutil.copy(path, copy / "test/good" / f"copy{number}.png")

    result = evaluate(inspector, scan_test(copy))

    assert any(note.endswith("for which the figures are too favourable: 3") for note in result.notes)


def test_file_is_written_completely_or_not_at_all(
    inspector: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("the report before")

    def fill_the_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.files.os.fsync", fill_the_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        write_report(None, inspector, path)

    assert caught.value.filename == str(path)
    assert path.read_text() == "the report before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_number_and_size_of_images_are_bounded(evaluation: Evaluation, inspector: Inspector, tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)
    assert cv2.imwrite(str(noise), pixels)
    images = tuple(
        replace(image, path=noise, mask=None, decision=decision)
        for image in evaluation.images
        for decision in (Decision.PASS, Decision.FAIL)
    )
    many = replace(evaluation, images=images * 20)

    write_report(many, inspector, tmp_path / "report.html")

    page = Page((tmp_path / "report.html").read_text())
    assert 2 * WORST_EACH <= len(page.all("img")) / 2 <= 2 * (WORST_EACH + BEST_EACH)
    for attrs in page.all("img"):
        data = np.frombuffer(base64.b64decode((attrs["src"] or "").split(",")[1]), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        assert max(decoded.shape[:2]) == IMAGE_SIDE
    assert (tmp_path / "report.html").stat().st_size < 8 * 2**20
