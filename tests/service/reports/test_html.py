"""The report as an HTML page and as a CSV file."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from babel.messages.catalog import Message
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po

from service.languages import LANGUAGES, SOURCE, catalogue_files
from service.reports import html as html_module
from service.reports.html import CATALOGUES, content_security_policy, render_html
from service.reports.plots import HEIGHT, WIDTH, period_chart, score_chart
from service.reports.table import COLUMNS, render_csv
from service.schemas.drift import DriftAlarm
from service.schemas.recipe import RecipeDifference
from service.schemas.records import DecisionCounts, SummaryGroup
from service.schemas.report import (
    DefectMap,
    DefectSpot,
    ProcessingTime,
    ReportChange,
    ReportReviews,
    ScoreDistribution,
    ShiftReport,
)
from service.schemas.review import PairAgreement, RateEstimate
from service.schemas.sections import InvalidReason
from service.serving.reports import IllustratedReport

START = datetime(2026, 3, 2, 5, tzinfo=UTC)
TEMPLATE = Path(html_module.__file__).parent / "templates" / "report.html.j2"
HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)>\'"&'
FORMULA = '=HYPERLINK("http://evil")'
OPTIONS = {"silent": "false", "trim_blocks": "true", "lstrip_blocks": "true"}
VOID = {"meta", "br", "img", "rect", "line", "circle"}


def counts(**numbers: int) -> dict[str, Any]:
    found = {"pass": 0, "review": 0, "fail": 0, "invalid": 0} | numbers
    values = DecisionCounts(
        total=sum(found.values()), counts=found, yield_of_judged=0.981, yield_of_decided=0.99, yield_of_all=0.5  # type: ignore[arg-type]
    )  # fmt: skip
    return values.model_dump()


def make_alarm(**changes: Any) -> DriftAlarm:
    """Return an open alarm."""
    values: dict[str, Any] = {
        "id": 1, "product": "widget", "station": None, "kind": "brightness", "direction": "lower", "since": START,
        "onset": None, "evidence": 5.0, "suspends": True, "recipe_revision": 3,
    }  # fmt: skip
    return DriftAlarm(**(values | changes))


def make_report(text: str = "press", **changes: Any) -> ShiftReport:
    """Return a report in which every section has something, and every text of clients is `text`."""
    rate = RateEstimate(rate=0.0123, low=0.001, high=0.05, count=1, of=81, method="melded")
    values: dict[str, Any] = {
        "product": text,
        "station": text,
        "time_zone": "UTC",
        "since": START,
        "until": START + timedelta(hours=2),
        "created_at": START + timedelta(hours=3),
        "total": DecisionCounts(**counts(**{"pass": 1200, "fail": 3, "review": 2, "invalid": 1})),
        "refused": None,
        "invalid_reasons": dict.fromkeys(InvalidReason, 1),
        "by": "hour",
        "periods": [
            SummaryGroup(
                name=None, start=START + timedelta(hours=hour), end=START + timedelta(hours=hour + 1),
                **counts(**{"pass": 600, "fail": 3 * hour, "review": 1}),
            )
            for hour in range(2)
        ],
        "stations": [SummaryGroup(name=name, start=None, end=None, **counts(fail=3)) for name in (text, None)],
        "defect_map": DefectMap(
            inspections=5, other_sizes=2, is_cut=True, image_width=64, image_height=48, counts=[[0, 5], [1, 0]],
            spots=[DefectSpot(x=48, y=12, inspections=5)], image_inspection_id="0190-id",
        ),
        "scores": [
            ScoreDistribution(
                bundle_version="d" * 12, fail_threshold=0.25, review_threshold=0.125, inspections=1205,
                bin_width=0.01, counts=[1000, 0, 205] + [0] * 72,
            ),
            ScoreDistribution(
                bundle_version="e" * 12, fail_threshold=0.0, review_threshold=-1.0, inspections=1, bin_width=0.0,
                counts=[],
            ),
        ],
        "other_scores": 7,
        "reviews": ReportReviews(
            inspections=1205, is_cut=True, sampled=80, reviewed=60, unreviewed=4, false_reject=rate, false_alarm=rate,
            miss=rate, common=12, alpha=0.8,
            pairs=[
                PairAgreement(
                    first=text, second="Bob", inspections=12, agreement=0.9, kappa=0.75, kappa_low=0.5, kappa_high=1.0,
                    counts={},
                ),
                PairAgreement(
                    first=text, second="Eve", inspections=2, agreement=1.0, kappa=None, kappa_low=None,
                    kappa_high=None, counts={},
                ),
            ],
        ),
        "changes": [
            ReportChange(
                created_at=START, actor=text, action="recipe:put", object="revision 2", reason=text,
                differences=[RecipeDifference(path="fail_threshold", before=None, after={"note": text})],
            )
        ],
        "are_changes_cut": True,
        "drift": [
            make_alarm(station=text, onset=START - timedelta(hours=1)),
            make_alarm(
                kind="p_value", direction=None, suspends=False, acknowledged_at=START + timedelta(hours=1),
                acknowledged_by=text, reason=text,
            ),
            make_alarm(kind="colour", direction="wider", ended_at=START + timedelta(hours=1)),
        ],
        "are_alarms_cut": True,
        "processing_time": ProcessingTime(inspections=1205, min_ms=1.2, mean_ms=23.45, p95_ms=50, max_ms=1234.5),
    }  # fmt: skip
    return ShiftReport(**(values | changes))


def empty_report() -> ShiftReport:
    nothing = RateEstimate(rate=None, low=0, high=1, count=0, of=0, method="clopper-pearson")
    reviews = ReportReviews(
        inspections=0, is_cut=False, sampled=0, reviewed=0, unreviewed=0, false_reject=nothing, false_alarm=nothing,
        miss=nothing, common=0, pairs=[], alpha=None,
    )  # fmt: skip
    total = DecisionCounts(
        total=0, counts=dict.fromkeys(("pass", "review", "fail", "invalid"), 0), yield_of_judged=None,
        yield_of_decided=None, yield_of_all=None,
    )  # fmt: skip
    return make_report(
        station=None, total=total, refused=3, invalid_reasons={}, by="day", periods=[], stations=[], defect_map=None,
        scores=[], other_scores=0, reviews=reviews, changes=[], are_changes_cut=False, drift=[], are_alarms_cut=False,
        processing_time=None,
    )  # fmt: skip


class Page(HTMLParser):
    """The elements of a page. Fails if elements are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(report: ShiftReport, language: Any = "en", part: Any = None) -> Page:
    return Page(render_html(IllustratedReport(report, part), language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_texts_are_shown_and_not_executed(language: Any) -> None:
    page = page_of(make_report(HOSTILE), language)
    assert page.text.count(HOSTILE) >= 6
    assert page.all("script") == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))


def test_the_page_is_one_file_with_a_strict_policy() -> None:
    text = render_html(IllustratedReport(make_report(), None), "en")
    page = Page(text)
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == content_security_policy()
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in content_security_policy()
    assert "default-src 'none'" in content_security_policy()
    assert "unsafe" not in content_security_policy()
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    assert page.all("link") == page.all("iframe") == page.all("a") == []
    assert "url(http" not in text
    assert "@import" not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_accessible(language: Any) -> None:
    page = page_of(make_report(), language)
    (root,) = page.all("html")
    assert root["lang"] == language
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert all(image.get("alt") for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-labelledby"] in ids)
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids
    assert all("scope" in cell for cell in page.all("th"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_section_is_there_with_and_without_content(language: Any) -> None:
    for report in (make_report(), empty_report(), make_report(stations=None, by="day")):
        assert len(page_of(report, language).all("h2")) == 8


def test_figures_are_shown() -> None:
    text = " ".join(page_of(make_report()).text.split())
    for shown in (
        "1,206",
        "98.1%",
        "1.23%",
        "0.10% – 5.00%",
        "2 Mar 2026, 05:00:00 +00:00",
        "1,234.5",
        "0.75",
        "brightness: lower",
        "2 Mar 2026, 04:00:00 +00:00",
        "OPEN yes",
        "acknowledged by press at 2 Mar 2026, 06:00:00 +00:00: press no",
        "ended by a new recipe or model at 2 Mar 2026, 06:00:00 +00:00 yes",
        "There were more alarms; the newest ones are listed.",
    ):
        assert shown in text, shown
    assert 'fail_threshold: – → {"note": "press"}' in text


def test_dates_and_numbers_are_german() -> None:
    text = " ".join(page_of(make_report(), "de").text.split())
    for shown in (
        "Schichtbericht",
        "1.206",
        "98,1\u00a0%".replace("\u00a0", " "),
        "02.03.2026, 05:00:00 +00:00",
        "1.234,5",
        "Helligkeit: niedriger",
        "OFFEN ja",
        "bestätigt von press am 02.03.2026, 06:00:00 +00:00: press nein",
        "beendet durch ein neues Rezept oder Modell am 02.03.2026, 06:00:00 +00:00 ja",
    ):
        assert shown in text, shown


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {SOURCE}))
def test_every_text_is_translated_and_no_translation_is_left_over(language: str) -> None:
    found = {message for _, message, _, _ in extract_from_file("jinja2", TEMPLATE, options=OPTIONS)}
    assert len(found) > 80
    messages: dict[Any, Message] = {}
    for path in catalogue_files(language, CATALOGUES):
        with path.open("rb") as file:
            messages |= {message.id: message for message in read_po(file, language) if message.id}
    assert messages.keys() == found
    for message in messages.values():
        assert message.string, message.id
        assert not message.fuzzy
        places = [sorted(re.findall(r"%\(\w+\)s|%%", str(text))) for text in (message.id, message.string)]
        assert places[0] == places[1], message.id


def test_the_map_is_drawn_over_the_part() -> None:
    part = np.full((48, 64, 3), 90, np.uint8)
    sources = {page_of(make_report(), part=image).all("img")[0]["src"] for image in (None, part)}
    assert len(sources) == 2


def rows_of(report: ShiftReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render_csv(report).decode(), newline="")))


def test_csv_has_every_figure_in_a_row() -> None:
    rows = rows_of(make_report())
    assert list(rows[0]) == list(COLUMNS)
    values = {(row["section"], row["item"], row["measure"]): row["value"] for row in rows}
    assert values["total", "", "pass"] == "1200"
    assert values["total", "", "inspected"] == "1206"
    assert values["station", "press", "fail"] == "3"
    assert values["reviews", "false_reject", "rate"] == "0.0123"
    assert values["agreement", "press, Bob", "kappa"] == "0.75"
    assert values["defect_spots", "1", "x"] == "48"
    assert values["processing_time", "", "p95_ms"] == "50.0"
    assert values["drift", "brightness press", "state"] == "open"
    assert values["drift", "brightness press", "direction"] == "lower"
    assert values["drift", "p_value", "state"] == "acknowledged"
    assert values["drift", "p_value", "reason"] == values["drift", "p_value", "acknowledged_by"] == "press"
    assert values["drift", "p_value", "suspends_guarantee"].lower() == "false"
    assert values["drift", "colour", "state"] == "ended"
    (ended,) = (row for row in rows if (row["item"], row["measure"]) == ("colour", "state"))
    assert (ended["start"], ended["end"]) == ("2026-03-02T05:00:00Z", "2026-03-02T06:00:00Z")
    assert values["changes", "recipe:put", "fail_threshold"] == 'null -> {"note":"press"}'
    assert {row["section"] for row in rows_of(empty_report())} == {"report", "total", "reviews"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_formulas_are_neutralised_in_csv(start: str) -> None:
    rows = rows_of(make_report(start + FORMULA[1:], changes=[
        ReportChange(created_at=START, actor=start + "a", action="recipe:put", object=None, reason=start + "r",
                     differences=[RecipeDifference(path=start + "p", before=None, after=1)])
    ]))  # fmt: skip
    cells = [cell for row in rows for name, cell in row.items() if name not in {"value", "low", "high"}]
    texts = cells + [row["value"] for row in rows if not re.fullmatch(r"-?[\d.e+-]+", row["value"])]
    assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert "'" + start + FORMULA[1:] in cells


def test_bars_of_the_charts_stay_inside() -> None:
    report = make_report()
    chart, histogram = period_chart(report.periods), score_chart(report.scores[0])
    assert histogram is not None
    for bar in (*chart.bars, *histogram.bars):
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert -0.01 <= bar.y <= bar.y + bar.height <= HEIGHT + 0.02
    assert chart.most == 604
    assert [bar.kind for bar in histogram.bars] == ["pass", "pass"]
    assert histogram.thresholds["review"] < histogram.thresholds["fail"] < WIDTH
    assert score_chart(report.scores[1]) is None
