"""docs/guarantee.md shows what its command computes, and the service's code keeps both guarantees in it."""

from pathlib import Path

from benchmarks.guarantee import CASES, DOCUMENT, FIGURE, SHOWN, figure, simulate, table, with_table

ROOT = Path(__file__).parents[2]


def test_the_document_shows_the_table_and_the_figure_of_the_command() -> None:
    document = (ROOT / DOCUMENT).read_text(encoding="utf-8")

    assert document == with_table(document, table([simulate(n, alpha) for n, alpha in CASES]))
    assert (ROOT / FIGURE).read_text(encoding="utf-8") == figure(simulate(*SHOWN))
