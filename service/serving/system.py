"""The state of the service in one report: readiness, products, queue, throughput, memory, disk, errors and settings."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import onnxruntime as ort
from pydantic import SecretStr

from service.monitoring.error_log import ERROR_LOG, LoggedError
from service.monitoring.metrics import Metrics
from service.monitoring.recent import RecentReport
from service.monitoring.refusals import Refusal, RefusalLog
from service.serving.admission import Admission
from service.serving.products import ProductService, ProductState
from service.serving.readiness import ReadinessCheck, ReadinessReport
from service.settings import PREFIX, Settings
from service.version import VERSION

MAX_ERRORS = 50
HIDDEN = "(hidden)"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_PROCESS_MEMORY = Path("/proc/self/statm")


@dataclass(frozen=True)
class DiskSpace:
    """The file system of a folder.

    Attributes:
        folder: `data` or `models`.
        free_bytes: Free space; None if it cannot be read.
        total_bytes: Its size; None if it cannot be read.
    """

    folder: str
    free_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True)
class MemoryUse:
    """Memory in bytes.

    Attributes:
        resident: Memory of the process; None where the system does not report it.
        limit: Limit of the container, or the memory of the machine.
        request_bodies: Memory reserved for bodies of requests.
        response_bodies: Memory reserved for large responses.
        bodies_limit: Limit of each of the two.
    """

    resident: int | None
    limit: int
    request_bodies: int
    response_bodies: int
    bodies_limit: int


@dataclass(frozen=True)
class ChangedSetting:
    """A setting that differs from its default, as text. A secret is not shown."""

    name: str
    value: str


@dataclass(frozen=True)
class SystemReport:
    """The state of the service.

    Attributes:
        readiness: Whether it accepts images, and why not.
        started_at: When it started.
        uptime_s: Seconds since then.
        products: The products and what serves them.
        queue_depth: Inspections in flight.
        queue_limit: Most inspections in flight.
        recent: Inspections of the last minutes.
        memory: Memory.
        disks: Disk space.
        errors: The newest refused requests and images, newest first.
        error_totals: Number of refusals since the start, by problem.
        log: The newest warnings and errors of the log, newest first.
        settings: Settings that differ from their defaults.
        versions: Versions by name.
    """

    readiness: ReadinessReport
    started_at: datetime
    uptime_s: float
    products: Sequence[ProductState]
    queue_depth: int
    queue_limit: int
    recent: RecentReport
    memory: MemoryUse
    disks: Sequence[DiskSpace]
    errors: Sequence[Refusal]
    error_totals: dict[str, int]
    log: Sequence[LoggedError]
    settings: Sequence[ChangedSetting]
    versions: dict[str, str]


class SystemService:
    """Reports the state of the service. It reads no database, so that it works while the database does not.

    Args:
        settings: The settings.
        readiness: Determines the readiness.
        products: Describes the products.
        admission: The queue of inspections.
        metrics: Inspections of the last minutes, and memory of bodies.
        refusals: Keeps the newest refusals.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: ReadinessCheck,
        products: ProductService,
        admission: Admission,
        metrics: Metrics,
        refusals: RefusalLog,
    ) -> None:
        self._folders = {"data": settings.data, "models": settings.models}
        self._readiness = readiness
        self._products = products
        self._admission = admission
        self._metrics = metrics
        self._refusals = refusals
        self._settings = changed_settings(settings)
        self._started_at = datetime.now(UTC)

    def report(self) -> SystemReport:
        """Return the state of the service now."""
        request_bodies, response_bodies, bodies_limit = self._metrics.http.body_memory()
        return SystemReport(
            readiness=self._readiness(),
            started_at=self._started_at,
            uptime_s=(datetime.now(UTC) - self._started_at).total_seconds(),
            products=self._products.list_products(),
            queue_depth=self._admission.depth,
            queue_limit=self._admission.limit,
            recent=self._metrics.recent.report(),
            memory=MemoryUse(_resident_bytes(), _memory_limit(), request_bodies, response_bodies, bodies_limit),
            disks=[_disk_space(name, folder) for name, folder in self._folders.items()],
            errors=self._refusals.newest(MAX_ERRORS),
            error_totals=self._refusals.totals,
            log=ERROR_LOG.newest(),
            settings=self._settings,
            versions={
                "plumbline": VERSION,
                "python": platform.python_version(),
                "onnxruntime": ort.__version__,
                "numpy": np.__version__,
                "opencv": cv2.__version__,
            },
        )


def changed_settings(settings: Settings) -> list[ChangedSetting]:
    """Return the settings that differ from their defaults, by name. Secrets are hidden.

    Of a URL, user, password, query and the address of a database are hidden as well.
    """
    found = []
    for name, field in sorted(Settings.model_fields.items()):
        value = getattr(settings, name)
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Path):
            default = default.absolute()
        if value != default:
            found.append(ChangedSetting(f"{PREFIX}{name.upper()}", _shown(name, value)))
    return found


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value)))
    text = str(value)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if name == "database_url":
        return f"{parts.scheme}://{HIDDEN}"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _disk_space(name: str, folder: Path) -> DiskSpace:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return DiskSpace(name, None, None)
    return DiskSpace(name, usage.free, usage.total)


def _resident_bytes() -> int | None:
    try:
        pages = int(_PROCESS_MEMORY.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _memory_limit() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        return machine
