"""Metrics of what is stored: retention, the audit log, and disk space."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.record_days import KeptReason


class StorageMetrics:
    """The metrics of storage.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.artefacts_removed = Counter(
            "inspection_artefacts_removed_total",
            "Inspections whose image and map were removed by retention.",
            ["product", "decision"],
            registry=registry,
        )
        self.retention_failures = Counter(
            "inspection_retention_failures_total",
            "Images or maps that retention could not remove; removal is retried.",
            registry=registry,
        )
        self.records_removed = Counter(
            "inspection_records_removed_total",
            "Records of inspections that were removed because of PLUMBLINE_RECORD_DAYS.",
            ["product"],
            registry=registry,
        )
        self.records_kept = Gauge(
            "inspection_records_past_limit",
            "Records older than PLUMBLINE_RECORD_DAYS that the last run kept, by the reason.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(KeptReason):
            self.records_kept.labels(reason)
        self.oldest_record = Gauge(
            "inspection_oldest_record_timestamp_seconds",
            "Time of the oldest stored inspection of a product, as of the last run.",
            ["product"],
            registry=registry,
        )
        self.audit_entries = Gauge(
            "inspection_audit_entries", "Entries of the audit log, as last reported.", registry=registry
        )
        self.audit_violations = Counter(
            "inspection_audit_violations_total", "Reports of changed or removed audit entries.", registry=registry
        )
        self.disk_free = Gauge(
            "inspection_disk_free_bytes",
            "Free bytes on the file system of a folder of the service; NaN if the folder cannot be read.",
            ["folder"],
            registry=registry,
        )
        self.disk_total = Gauge(
            "inspection_disk_total_bytes",
            "Size of the file system of a folder of the service, in bytes; NaN if the folder cannot be read.",
            ["folder"],
            registry=registry,
        )

    def set_folders(self, folders: Mapping[str, Path]) -> None:
        """Set the folders whose disk space is exposed. It is read at every scrape.

        Args:
            folders: Folder by the value of the label `folder`.
        """
        for name, path in folders.items():
            self.disk_free.labels(name).set_function(partial(_disk_bytes, path, "free"))
            self.disk_total.labels(name).set_function(partial(_disk_bytes, path, "total"))


def _disk_bytes(folder: Path, field: str) -> float:
    """Return free or total bytes of the folder's file system; NaN if it cannot be read, so that `/metrics` responds."""
    try:
        return float(getattr(shutil.disk_usage(folder), field))
    except OSError:
        return math.nan
