"""What training finds about the images of a job, for the person who sent them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from plumbline_client.schemas.training import MAX_NAMED_GROUPS, MAX_SUSPECTED, ReportedFindings
from training.dataset import DataSet

_MAX_GROUP_NAME = 128


def findings_of(data: DataSet, suspected: Sequence[Path], numbers: Mapping[Path, int]) -> ReportedFindings:
    """Return the suspected images and the capture groups of a job.

    Args:
        data: The images as training divides them.
        suspected: Images that may show a defect, the most different one first.
        numbers: Number of each image in the job.
    """
    groups = sorted(set(data.grouping.names))
    return ReportedFindings(
        suspected=[numbers[path] for path in suspected[:MAX_SUSPECTED]],
        grouped_by=data.grouping.grouped_by,
        groups=[name[:_MAX_GROUP_NAME] for name in groups[:MAX_NAMED_GROUPS]],
        group_count=len(groups),
        held_out_groups=0 if data.grouped_by == "none" else len(data.groups),
    )
