"""An ROI keeps the certified rate by the service's score, which the obvious other score does not."""

from pathlib import Path

from benchmarks.roi import ALPHA, BEGIN, DOCUMENT, END, simulate

ROOT = Path(__file__).parents[2]


def test_certified_rate_is_kept_under_every_roi() -> None:
    rates = simulate(calibrations=20)

    assert all(row.service <= ALPHA + 0.01 for row in rates), rates
    assert [row.service for row in rates] == sorted((row.service for row in rates), reverse=True)
    assert max(row.share_of_judged for row in rates) > ALPHA + 0.01, "which is why it is not how the service scores"


def test_the_document_has_a_place_for_the_table() -> None:
    document = (ROOT / DOCUMENT).read_text(encoding="utf-8")

    assert document.count(BEGIN) == document.count(END) == 1
