"""Metrics of training jobs."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DURATION_BUCKETS_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 14400.0)
OPEN_STATES = ("queued", "running")
ENDED_STATES = ("succeeded", "failed", "cancelled")


class TrainingMetrics:
    """The metrics of training jobs. They have no label for the product, of which there may be thousands.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(
            "inspection_training_jobs",
            "Training jobs in the database that have not ended, by state (queued, running).",
            ["state"],
            registry=registry,
        )
        self.image_bytes = Gauge(
            "inspection_training_image_bytes", "Size of the stored images of training jobs.", registry=registry
        )
        self.ended = Counter(
            "inspection_training_jobs_ended_total",
            "Training jobs that ended, by state (succeeded, failed, cancelled).",
            ["state"],
            registry=registry,
        )
        self.lost = Counter(
            "inspection_training_workers_lost_total",
            "Claims of training jobs whose worker stopped to report.",
            registry=registry,
        )
        self.duration = Histogram(
            "inspection_training_duration_seconds",
            "Time from the claim of a training job to its success.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        for state in OPEN_STATES:
            self.jobs.labels(state)
        for state in ENDED_STATES:
            self.ended.labels(state)

    def set_jobs(self, by_state: Mapping[str, int], stored_bytes: int) -> None:
        """Set the numbers of jobs.

        Args:
            by_state: Number of jobs per state; a state without jobs may be left out.
            stored_bytes: Size of the stored images.
        """
        for state in OPEN_STATES:
            self.jobs.labels(state).set(by_state.get(state, 0))
        self.image_bytes.set(stored_bytes)
