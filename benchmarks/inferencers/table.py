"""Results of the inferencers: one file per category, and the table of all results."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CALLERS = (1, 4)  # columns of images per second
_HEAD = (
    "category",
    "inferencer",
    "image AUROC %",
    "ms, median",
    "ms, p95",
    *(f"images/s, {callers} caller{'s' if callers > 1 else ''}" for callers in CALLERS),
)
_ABSENT = "–"

Results = dict[str, dict[str, Any]]


def result_path(out: Path, category: str) -> Path:
    """Return the path of a category's results."""
    return out / f"{category}.json"


def read_results(out: Path, category: str) -> Results:
    """Return the results of a category by inferencer, empty without a file."""
    path = result_path(out, category)
    results: Results = json.loads(path.read_text()) if path.is_file() else {}
    return results


def write_results(out: Path, category: str, new: Mapping[str, Mapping[str, Any]]) -> None:
    """Add figures to a category's results; figures that `new` does not have stay as they are."""
    results = read_results(out, category)
    for name, figures in new.items():
        results[name] = {**results.get(name, {}), **figures}
    path = result_path(out, category)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(results, indent=2) + "\n")
    scratch.replace(path)


def markdown(results: Mapping[str, Results], names: Sequence[str]) -> str:
    """Return the results as a Markdown table.

    Args:
        results: Results by category.
        names: Inferencers in the order of the rows.
    """
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * 2}{'---:|' * (len(_HEAD) - 2)}"]
    for category, found in results.items():
        for name in names:
            if name not in found:
                continue
            row = found[name]
            cells = [category, name, _number(row.get("image_auroc"), 100, 2)]
            cells += [_number(row.get("median_ms"), 1, 1), _number(row.get("p95_ms"), 1, 1)]
            cells += [_number(row.get("images_per_second", {}).get(str(callers)), 1, 1) for callers in CALLERS]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, factor: float, digits: int) -> str:
    return _ABSENT if value is None else f"{factor * value:.{digits}f}"
