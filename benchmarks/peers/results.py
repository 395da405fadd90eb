"""What was measured, one file for each category and peer, and the table of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from training.comparison.tables import FIGURES

PEERS = ("padim", "patchcore", "stfpm")  # the quick ones first

_SHARES = ("image_auroc", "pixel_auroc", "aupro", "pixel_average_precision")
_COSTS = ("train_seconds", "ms_per_image")
COLUMNS = ("method", "category", *_SHARES, *_COSTS)
# As `plumbline-train compare` heads them, so that the two tables can be laid side by side.
_HEAD = ("method", "category", *(f"{FIGURES[name]} %" for name in _SHARES), "training s", "ms per image")
MEAN = "mean"


class OtherSettings(Exception):
    """A folder holds results that were made with other settings."""

    def __init__(self, path: Path, differences: Sequence[str]) -> None:
        super().__init__(
            f"{path} was measured with other settings ({'; '.join(differences)}); "
            "name another --out, or delete the file to measure it again"
        )


@dataclass(frozen=True)
class Result:
    """One peer on one category.

    Attributes:
        method: One of `PEERS`.
        category: Name of the data set's folder.
        image_auroc: Of anomalib's raw image scores, 0..1, as the other three.
        pixel_auroc: Of anomalib's raw maps, over all pixels of all images.
        aupro: As MVTec AD defines it, see `training.metrics`.
        pixel_average_precision: As `pixel_auroc`.
        train_seconds: Wall clock, from prepared images to a model that answers.
        ms_per_image: Median of one image at a time, from uint8 pixels to map and score.
        settings: What decides the figures; two results compare only where these are equal.
        details: What else is worth knowing, for instance what ran for `ms_per_image`.
    """

    method: str
    category: str
    image_auroc: float
    pixel_auroc: float
    aupro: float
    pixel_average_precision: float
    train_seconds: float
    ms_per_image: float
    settings: Mapping[str, Any]
    details: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def write(self, out: Path) -> None:
        """Write the result's file, whole or not at all: a broken one would pass for a result on resuming."""
        path = result_path(out, self.category, self.method)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(self), indent=2) + "\n")
        scratch.replace(path)


def result_path(out: Path, category: str, peer: str) -> Path:
    return out / f"{category}-{peer}.json"


def pending(
    out: Path, peers: Iterable[str], categories: Sequence[str], settings: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Peers and categories without a result yet, in the order of measuring.

    Raises:
        OtherSettings: A result in the folder was made with other settings.
    """
    missing = []
    for peer in peers:
        for category in categories:
            path = result_path(out, category, peer)
            if not path.is_file():
                missing.append((peer, category))
                continue
            found = Result.read(path).settings
            names = sorted({*found, *settings})
            differences = [
                f"{name} was {found.get(name)!r} and is now {settings.get(name)!r}"
                for name in names
                if found.get(name) != settings.get(name)
            ]
            if differences:
                raise OtherSettings(path, differences)
    return missing


def read_results(out: Path, peers: Iterable[str], categories: Sequence[str]) -> list[Result]:
    """The results that are there, by peer and then category, as the table shows them."""
    paths = [result_path(out, category, peer) for peer in peers for category in categories]
    return [Result.read(path) for path in paths if path.is_file()]


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The table's rows: every result, and behind a peer's categories their mean.

    Args:
        results: Grouped by peer; a mean of one category would say it twice and is left out.
    """
    table: list[dict[str, Any]] = []
    for peer in dict.fromkeys(result.method for result in results):
        own = [result for result in results if result.method == peer]
        table += [{name: getattr(result, name) for name in COLUMNS} for result in own]
        if len(own) > 1:
            means = {name: fmean(getattr(result, name) for result in own) for name in (*_SHARES, *_COSTS)}
            table.append({"method": peer, "category": f"{MEAN} of {len(own)}", **means})
    return table


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table; shares in percent."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * 2}{'---:|' * (len(_HEAD) - 2)}"]
    for row in table:
        cells = [str(row[name]) for name in ("method", "category")]
        cells += [f"{100 * row[name]:.2f}" for name in _SHARES]
        cells += [f"{row['train_seconds']:.0f}", f"{row['ms_per_image']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_table(out: Path, results: Sequence[Result]) -> str:
    """Write `peers.json` and `peers.md`; the answer is the Markdown."""
    table = rows(results)
    text = markdown(table)
    (out / "peers.json").write_text(json.dumps(table, indent=2) + "\n")
    (out / "peers.md").write_text(text)
    return text
