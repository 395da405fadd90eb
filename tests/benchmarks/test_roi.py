"""The certified rate holds with an ROI for the score of the service, but not for the alternative score."""

from pathlib import Path

from benchmarks.roi import ALPHA, BEGIN, DOCUMENT, END, simulate

ROOT = Path(__file__).parents[2]


def test_certified_rate_holds_with_every_roi() -> None:
    rates = simulate(calibrations=20)

    assert all(row.service <= ALPHA + 0.01 for row in rates), rates
    assert [row.service for row in rates] == sorted((row.service for row in rates), reverse=True)
    assert max(row.share_of_judged for row in rates) > ALPHA + 0.01, "the alternative violates the bound"


def test_document_has_the_markers_for_the_table() -> None:
    document = (ROOT / DOCUMENT).read_text(encoding="utf-8")

    assert document.count(BEGIN) == document.count(END) == 1
