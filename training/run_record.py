"""What a training run records beside its bundle: the curve of its losses and the capture groups of its images.

The record is a file in the run folder, `training-VERSION.json`. It is for reports; nothing else depends on it, so a
bundle whose run folder is gone is complete.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from service.bundle.bundle import Bundle
from service.bundle.card import GroupedBy
from service.bundle.manifest import BundleRecord
from service.inspection.image_files import path_text
from service.schemas.violations import list_violations
from training.dataset import DataSet
from training.files import write_text

MAX_POINTS = 250  # of a curve
MAX_BYTES = 16 * 2**20


class CurvePoint(BundleRecord):
    """Mean losses of consecutive training steps.

    Attributes:
        step: The last of these steps, 1-based.
        losses: Mean of every loss over these steps, by name. "loss" is the one that is minimised.
    """

    step: int = Field(ge=1)
    losses: dict[str, float]


class GroupCount(BundleRecord):
    """The images of one capture group.

    Attributes:
        name: The group.
        training: Number of its training images.
        held_out: Number of its held-out images.
    """

    name: str
    training: int = Field(ge=0)
    held_out: int = Field(ge=0)


class RunRecord(BundleRecord):
    """The record of the training of one bundle.

    Attributes:
        product: Product of the bundle.
        digest: Digest of the bundle.
        data: The folder of the images, as it was given.
        grouped_by: The property that separates the capture groups of all good images.
        groups: The capture groups, sorted by name.
        duplicates: Number of files that were not used because another file has the same content.
        excluded: Good images that were left out on request, relative to the folder of good images.
        curve: The training curve, ascending by step.
    """

    schema_version: Literal[1] = 1
    product: str
    digest: str
    data: str
    grouped_by: GroupedBy
    groups: list[GroupCount]
    duplicates: int = Field(ge=0)
    excluded: list[str] = Field(default_factory=list)
    curve: list[CurvePoint]


class TrainingCurve:
    """Accumulator of the losses of every step, as means over windows of steps.

    Args:
        iterations: Steps of the whole run; the curve has at most `MAX_POINTS` points.
    """

    def __init__(self, iterations: int) -> None:
        self._window = math.ceil(iterations / MAX_POINTS)
        self._sums: dict[int, dict[str, list[float]]] = {}

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        """Add the losses of a step, 1-based. Values that are not finite are left out."""
        sums = self._sums.setdefault((step - 1) // self._window, {})
        for name, value in losses.items():
            if math.isfinite(value):
                total = sums.setdefault(name, [0.0, 0.0, 0.0])
                total[0] += value
                total[1] += 1
                total[2] = step

    def points(self) -> list[CurvePoint]:
        """Return the curve."""
        return [
            CurvePoint(
                step=int(max(last for _, _, last in sums.values())),
                losses={name: total / count for name, (total, count, _) in sums.items()},
            )
            for _, sums in sorted(self._sums.items())
            if sums
        ]

    def state(self) -> dict[int, dict[str, list[float]]]:
        """Return what a checkpoint stores."""
        return self._sums

    def restore(self, state: dict[int, dict[str, list[float]]]) -> None:
        """Continue a curve from the state in a checkpoint."""
        self._sums = state


def record_run(run_dir: Path, bundle: Bundle, data: DataSet, curve: Sequence[CurvePoint]) -> None:
    """Write the record of a training to its run folder.

    Raises:
        OSError: The file cannot be written.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number, name in enumerate(data.grouping.names):
        counts[name][number >= len(data.train)] += 1
    record = RunRecord(
        product=bundle.manifest.product,
        digest=bundle.digest,
        data=path_text(data.root),
        grouped_by=data.grouping.grouped_by,
        groups=[GroupCount(name=name, training=t, held_out=h) for name, (t, h) in sorted(counts.items())],
        duplicates=len(data.duplicates),
        excluded=[path_text(path.relative_to(data.folder)) for path in data.excluded],
        curve=list(curve),
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(record_file(run_dir, bundle), record.model_dump_json(indent=2) + "\n")


def record_file(run_dir: Path, bundle: Bundle) -> Path:
    """Return the path of a bundle's record in a run folder."""
    return run_dir / f"training-{bundle.version}.json"


def find_record(run_dir: Path, bundle: Bundle) -> RunRecord | str:
    """Return the record of a bundle's training, or why there is none, as a sentence."""
    path = record_file(run_dir, bundle)
    shown = path_text(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            return f"The record of the training {shown} is larger than {MAX_BYTES} bytes and is not used."
        record = RunRecord.model_validate_json(content)
    except FileNotFoundError:
        return f"The record of the training is not there: {shown} does not exist."
    except OSError as error:
        return f"The record of the training {shown} cannot be read: {error.strerror}."
    except ValidationError as error:
        return f"The record of the training {shown} is damaged: it {list_violations(error)[0]['msg']}."
    if record.digest != bundle.digest:
        return f"The record of the training {shown} belongs to another bundle and is not used."
    return record
