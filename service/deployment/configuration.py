"""Options and limits that follow from the settings."""

from __future__ import annotations

from service.deployment.memory_limits import MemoryLimits
from service.deployment.passed_tests import PassedSelfTests
from service.deployment.repository import BundleLoader
from service.deployment.uploads import UploadLimits
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.inspector import InspectorOptions
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.cuda import has_driver
from service.inspection.runtime.engine import IN_PROCESS, Engine
from service.inspection.runtime.isolation import SelfTestLimits
from service.inspection.runtime.session import SessionOptions
from service.inspection.runtime.threads import cpu_quota
from service.monitoring.drift.records import Limits
from service.settings import Settings

_GPU_BATCH = 8
ENGINES = "tensorrt"
"""Name of the folder in the data folder with the graphs that TensorRT compiled."""


def drift_limits(settings: Settings) -> Limits:
    """Return when alarms of drift are raised."""
    return Limits(settings.drift_inspections_per_year, settings.drift_reject_rate_inspections)


def inspector_options(settings: Settings, engine: Engine = IN_PROCESS) -> InspectorOptions:
    """Return the options of inspectors for the given settings.

    Args:
        settings: The settings.
        engine: Runs the graphs.
    """
    return InspectorOptions(
        session=SessionOptions(
            provider=settings.provider,
            threads=settings.threads,
            max_batch=_max_batch(settings),
            engine_cache=settings.data / ENGINES,
        ),
        batching=BatchingOptions(
            max_batch=_max_batch(settings),
            # Admission limits all products together; a smaller limit per product would reject images too early.
            queue_limit=settings.queue_limit,
            deadline_s=settings.queue_deadline_s,
            concurrency=settings.concurrent_runs or engine.concurrency,
            # The limit counts each graph once.
            may_use_two_sessions=settings.bundle_memory_bytes is None,
        ),
        limits=ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels),
        engine=engine,
    )


def bundle_loader(
    settings: Settings, passed: PassedSelfTests | None = None, engine: Engine = IN_PROCESS
) -> BundleLoader:
    """Return the loader of bundles for the given settings.

    Args:
        settings: The settings.
        passed: Self-tests that are not repeated; None to run every self-test.
        engine: Runs the graphs.
    """
    limits = SelfTestLimits(settings.self_test_timeout_s, settings.self_test_memory_bytes)
    return BundleLoader(inspector_options(settings, engine), limits, passed)


def memory_limits(settings: Settings) -> MemoryLimits:
    """Return which bundles stay in memory."""
    return MemoryLimits(settings.bundle_memory_bytes, settings.pinned_products | settings.required_products)


def upload_limits(settings: Settings) -> UploadLimits:
    """Return the limits of uploads of bundles."""
    return UploadLimits(
        max_bytes=settings.max_bundle_bytes,
        max_uploads=settings.max_uploads,
        reserve_bytes=settings.min_free_bytes,
    )


def running_limit(settings: Settings, engine: Engine = IN_PROCESS) -> int:
    """Return how many inspections run at once; the others wait in a fair queue.

    These must keep all cores busy while others write their results. More only delay the clients that come next: on a
    CPU, larger batches are not faster. On a GPU they are, so a full batch must be able to form. Inspections whose graph
    runs elsewhere only wait here, so as many as the engine runs are added.
    """
    return cpu_quota() + 2 + (engine.concurrency or 0) + (_max_batch(settings) if _has_gpu(settings) else 0)


def _max_batch(settings: Settings) -> int:
    if settings.max_batch is not None:
        return settings.max_batch
    return min(_GPU_BATCH, settings.queue_limit) if _has_gpu(settings) else 1


def _has_gpu(settings: Settings) -> bool:
    return settings.provider in {"auto", "cuda", "tensorrt"} and has_driver()
