"""The state of the service for people who operate it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from service.schemas.common import ResponseModel
from service.schemas.inspection import BundleReference
from service.schemas.outbox import SinkStatus
from service.schemas.product import BundleProblem, Readiness
from service.schemas.sections import DecisionName


class DurationFacts(ResponseModel):
    """Exact percentiles of durations, in milliseconds, by the nearest rank."""

    p50_ms: float | None = Field(description="Null with fewer than 2 inspections.")
    p95_ms: float | None = Field(description="Null with fewer than 20 inspections.")
    p99_ms: float | None = Field(description="Null with fewer than 100 inspections.")
    longest_ms: float | None


class RecentFacts(ResponseModel):
    """Inspections of the last minutes."""

    inspections: int
    decisions: dict[DecisionName, int]
    per_second: float
    durations: DurationFacts = Field(
        description="From the complete receipt of the image to the stored verdict. Refused images are not included."
    )


class ParityFacts(ResponseModel):
    """The parity certificate of a bundle, and the self-test of this process with the same images."""

    measured: float = Field(description="Relative difference of the graph from the golden maps, at export.")
    measured_on: str = Field(description="Provider on which it was measured.")
    self_test: float | None = Field(
        description="The same difference on this machine and provider, when it was loaded. Null: it was not loaded yet."
    )
    tolerance: float = Field(description="Largest difference with which a bundle is served.")


class ServedProduct(ResponseModel):
    """A product and what serves it."""

    product: str
    status: str = Field(description="`ready`, `loading`, `broken` or `inactive`.")
    provider: str | None
    bundle: BundleReference | None
    recipe_revision: int | None
    shadow: BundleReference | None
    parity: ParityFacts | None
    problems: list[BundleProblem]
    recent: RecentFacts | None = Field(description="Null without inspections in the window.")


class QueueFacts(ResponseModel):
    """The queue of inspections."""

    depth: int = Field(description="Inspections in flight, waiting or running.")
    limit: int
    shed: dict[str, int] = Field(description="Images refused for lack of capacity since the start, by reason.")


class MemoryFacts(ResponseModel):
    """Memory in bytes."""

    resident: int | None = Field(description="Of the process; null where the system does not report it.")
    limit: int = Field(description="Limit of the container, or the memory of the machine.")
    request_bodies: int = Field(description="Reserved for bodies of requests in flight.")
    response_bodies: int = Field(description="Reserved for large responses in flight.")
    bodies_limit: int = Field(description="Limit of each of the two.")


class DiskFacts(ResponseModel):
    """The file system of a folder of the service."""

    folder: str = Field(description="`data` or `models`.")
    free_bytes: int | None = Field(description="Null if it cannot be read.")
    total_bytes: int | None


class RefusalFacts(ResponseModel):
    """A request or an image that was refused."""

    at: datetime
    problem: str = Field(description="Last part of the problem's type.")
    status: int | None
    reason: str | None
    request_id: str | None
    client: str | None = Field(description="Address of the client.")
    principal: str = Field(description="Kind and id of the key or account.")
    method: str | None = Field(description="Null for an image of a stream or a batch.")
    path: str | None


class LoggedFacts(ResponseModel):
    """A warning or an error of the log."""

    at: datetime
    level: str = Field(description="`warning`, `error` or `critical`.")
    event: str = Field(description="What happened.")
    details: str = Field(description="The other fields of the log entry as JSON, shortened; empty without any.")


class SettingFacts(ResponseModel):
    """A setting that differs from its default."""

    name: str
    value: str = Field(description="As text; `(hidden)` for a secret.")


class SystemState(ResponseModel):
    """The state of this process. With several processes, each has its own."""

    readiness: Readiness
    started_at: datetime
    uptime_s: float
    products: list[ServedProduct]
    queue: QueueFacts
    window_s: float = Field(description="Length of the window of `recent`: 5 minutes, less after a start or a rush.")
    recent: RecentFacts = Field(description="Inspections of all products in the window.")
    memory: MemoryFacts
    disks: list[DiskFacts]
    sinks: list[SinkStatus] | None = Field(description="Webhooks and brokers; null if the database cannot be read.")
    errors: list[RefusalFacts] = Field(
        description="The newest refused requests and images since the start, newest first: at most 20 of each problem."
    )
    error_totals: dict[str, int] = Field(description="Number of refusals since the start, by problem.")
    log: list[LoggedFacts] = Field(
        description="The newest warnings and errors of the log since the start, newest first: at most 50."
    )
    settings: list[SettingFacts] = Field(description="Settings that differ from their defaults.")
    versions: dict[str, str]
