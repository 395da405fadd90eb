"""The report of a fleet: one self-contained HTML file, with links to the reports of the products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from service.inspection.calibration import DEFAULT_FAIL_ALPHA, bound_rate, percent, smallest_alpha
from training.files import write_text
from training.fleet.entry import Entry, State
from training.fleet.results import Result, report_file
from training.html_pages import Style, template_environment

FIGURES: Mapping[str, str] = {
    "image_auroc": "image AUROC",
    "aupro": "AUPRO",
    "sanity_images": "synthetic: images",
    "sanity_pixels": "synthetic: pixels",
}
"""The columns of figures: those of the test images if there are any, and AUROC on synthetic anomalies."""
MIB = 2**20
STATES: Mapping[State, str] = {
    "failed": "failed",
    "waiting": "not trained yet",
    "trained": "trained now",
    "unchanged": "trained before, unchanged",
}


def write_page(path: Path, entries: Sequence[Entry]) -> None:
    """Write the report, atomically.

    Args:
        path: The HTML file; the folders of the products are beside it.
        entries: The products in the order of the list.

    Raises:
        OSError: The file cannot be written.
    """
    style = Style.load()
    counts = Counter(entry.state for entry in entries)
    results = [entry.result for entry in entries if entry.result is not None]
    page = (
        template_environment()
        .get_template("fleet.html.j2")
        .render(
            total=len(entries),
            counts=[(text, counts[state]) for state, text in STATES.items() if counts[state]],
            seconds=sum(result.seconds for result in results),
            cpu_seconds=sum(result.cpu_seconds or 0.0 for result in results),
            figures=FIGURES,
            failed=[entry for entry in entries if entry.state == "failed"],
            done=[_row(entry, path.parent) for entry in entries if entry.result and entry.result.error is None],
            waiting=[entry.job.product for entry in entries if entry.state == "waiting"],
            style=style.sheet,
            style_hash=style.digest,
        )
    )
    write_text(path, page)


def _row(entry: Entry, folder: Path) -> dict[str, Any]:
    result = entry.result
    assert result is not None
    assert result.version is not None
    report = report_file(folder / entry.job.product, result.version)
    return {
        "entry": entry,
        "result": result,
        "when": "before" if entry.state == "unchanged" else "now",
        "bound": _bound(result),
        "peak_mib": None if result.peak_bytes is None else result.peak_bytes // MIB,
        "report": quote(report.relative_to(folder).as_posix()),
    }


def _bound(result: Result) -> str:
    """Return the certified share of good parts that fail on average, at the default threshold."""
    bound = bound_rate(result.held_out, max(DEFAULT_FAIL_ALPHA, smallest_alpha(result.held_out)))
    return f"≤ {percent(bound.average)}"
