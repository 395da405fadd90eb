"""docs/guarantee.md contains what `benchmarks.guarantee` computes with the service's code."""

from pathlib import Path

from benchmarks.guarantee import CASES, DOCUMENT, FIGURE, SHOWN, figure, simulate, table, with_table

ROOT = Path(__file__).parents[2]


def test_document_contains_the_computed_table_and_figure() -> None:
    document = (ROOT / DOCUMENT).read_text(encoding="utf-8")

    assert document == with_table(document, table([simulate(n, alpha) for n, alpha in CASES]))
    assert (ROOT / FIGURE).read_text(encoding="utf-8") == figure(simulate(*SHOWN))
