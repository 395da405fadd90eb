"""Results of the peers: one file per category and peer, and the table of all results."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from training.comparison.tables import FIGURES

PEERS = ("padim", "patchcore", "stfpm", "efficientad")  # the fastest first

_SHARES = ("image_auroc", "pixel_auroc", "aupro", "pixel_average_precision")
# Processor time, which other load on the machine affects less than the clock.
_COSTS = ("train_cpu_seconds", "ms_processor")
COLUMNS = ("method", "category", *_SHARES, *_COSTS)
# The column names of `plumbline-train compare`, so that the two tables can be compared.
_HEAD = (
    "method",
    "category",
    *(f"{FIGURES[name]} %" for name in _SHARES),
    "training, processor s",
    "processor ms per image",
)
MEAN = "mean"


class OtherSettings(Exception):
    """The output folder contains a result that was measured with other settings."""

    def __init__(self, path: Path, differences: Sequence[str]) -> None:
        super().__init__(
            f"{path} was measured with other settings ({'; '.join(differences)}); "
            "choose another --out, or delete the file to measure it again"
        )


@dataclass(frozen=True)
class Result:
    """One peer on one category.

    Attributes:
        method: One of `PEERS`.
        category: Name of the data set's folder.
        image_auroc: AUROC of anomalib's raw image scores, 0 to 1, as the other three metrics.
        pixel_auroc: AUROC of anomalib's raw maps, over all pixels of all images.
        aupro: AUPRO as MVTec AD defines it, see `training.metrics`.
        pixel_average_precision: Average precision of the raw maps, over all pixels of all images.
        train_seconds: Wall-clock time of training, from prepared images to the trained model.
        ms_per_image: Median latency of one image, from uint8 pixels to map and score.
        settings: Settings that determine the results. Only results with equal settings are comparable.
        details: Additional information, for instance the runtime in which `ms_per_image` was measured.
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

    @property
    def train_cpu_seconds(self) -> float:
        """Return the processor time of training in seconds."""
        seconds: float = self.details["train_cpu_seconds"]
        return seconds

    @property
    def ms_processor(self) -> float:
        """Return the median processor time of one image in milliseconds, all threads together."""
        milliseconds: float = self.details["ms_per_image_processor"]
        return milliseconds

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the result in a file."""
        return cls(**json.loads(path.read_text()))

    def write(self, out: Path) -> None:
        """Write the result's file atomically, because an incomplete file would count as a result on resuming."""
        path = result_path(out, self.category, self.method)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(self), indent=2) + "\n")
        scratch.replace(path)


def result_path(out: Path, category: str, peer: str) -> Path:
    """Return the path of a result."""
    return out / f"{category}-{peer}.json"


def network_path(out: Path, category: str, peer: str) -> Path:
    """Return the path of a trained network's parameters, which `benchmarks.inferencers` exports."""
    return out / f"{category}-{peer}.pt"


def settings_of(peer: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine a peer's results: those of all peers, and those named after it.

    Otherwise another number of STFPM's steps would make the results of PatchCore invalid.
    """
    others = tuple(f"{name}_" for name in PEERS if name != peer)
    return {name: value for name, value in settings.items() if not name.startswith(others)}


def pending(
    out: Path, peers: Iterable[str], categories: Sequence[str], settings: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the pairs of peer and category without a result, in the order of measuring.

    Args:
        out: Folder of the results.
        peers: Some of `PEERS`.
        categories: Names of the data set's folders.
        settings: Settings of all peers; of each, only those of `settings_of` must equal.

    Raises:
        OtherSettings: A result in the folder was measured with other settings.
    """
    missing = []
    for peer in peers:
        for category in categories:
            path = result_path(out, category, peer)
            if not path.is_file():
                missing.append((peer, category))
                continue
            found, own = Result.read(path).settings, settings_of(peer, settings)
            differences = [
                f"{name} was {found.get(name)!r} and is now {own.get(name)!r}"
                for name in sorted({*found, *own})
                if found.get(name) != own.get(name)
            ]
            if differences:
                raise OtherSettings(path, differences)
    return missing


def read_results(out: Path, peers: Iterable[str], categories: Sequence[str]) -> list[Result]:
    """Return the existing results, ordered by peer and then category, as in the table."""
    paths = [result_path(out, category, peer) for peer in peers for category in categories]
    return [Result.read(path) for path in paths if path.is_file()]


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the rows of the table: all results, and after the categories of a peer their mean.

    Args:
        results: Results, grouped by peer. A peer with only one category gets no mean.
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
    """Return the rows as a Markdown table, with shares in percent."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * 2}{'---:|' * (len(_HEAD) - 2)}"]
    for row in table:
        cells = [str(row[name]) for name in ("method", "category")]
        cells += [f"{100 * row[name]:.2f}" for name in _SHARES]
        cells += [f"{row['train_cpu_seconds']:.0f}", f"{row['ms_processor']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_table(out: Path, results: Sequence[Result]) -> str:
    """Write `peers.json` and `peers.md`, and return the Markdown."""
    table = rows(results)
    text = markdown(table)
    (out / "peers.json").write_text(json.dumps(table, indent=2) + "\n")
    (out / "peers.md").write_text(text)
    return text
