"""Settings of the service, read from `PLUMBLINE_*` environment variables.

The text under each field is its documentation. `plumbline serve --help` and `plumbline doctor` show the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.host_names import is_loopback
from service.record_days import MAX_DAYS, parse_record_days
from service.setting_types import (
    ArtefactsUrl,
    BundleStoreUrl,
    DatabaseUrl,
    EndpointUrl,
    Folder,
    HostNames,
    Names,
    OptionalBool,
    OptionalPath,
    Origins,
    RecordDaysText,
    ShiftTimes,
    ZoneName,
)

PREFIX = "PLUMBLINE_"
_MIN_POOL = 6


class Settings(BaseSettings):
    """Settings of a running service. They do not change while the process runs."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    models: Folder = Path("models")
    """Model repository: one folder per product, in it one folder per bundle version. Only uploads write to it. With
    `bundle_store`, it is a local cache.
    """
    data: Folder = Path("data")
    """Folder for inspections: the SQLite database, images and anomaly maps. Must be writable."""
    database_url: DatabaseUrl = ""
    """SQLAlchemy URL. Empty: SQLite in the data folder. For PostgreSQL:
    `postgresql+psycopg://user:password@host/name`.
    """
    database_pool_size: int = Field(default=20, ge=2, le=500)
    """Most connections of this process to PostgreSQL, at least 6. It keeps up to three of them for jobs that one
    process does. SQLite does not use the setting.
    """
    database_connect_timeout_s: int = Field(default=5, ge=2, le=300)
    """Seconds that a connection to PostgreSQL may take, and that a request waits for a free connection."""
    database_statement_timeout_s: float = Field(default=30.0, ge=0.1, le=3600)
    """Seconds that a statement may take in PostgreSQL. Migrations have no limit."""
    database_lock_timeout_s: float = Field(default=5.0, ge=0.1, le=300)
    """Seconds that a statement may wait in PostgreSQL for a lock of another transaction."""
    artefacts_url: ArtefactsUrl = ""
    """Where images and anomaly maps are stored: `s3://BUCKET/PREFIX`, `file:///FOLDER`, or another URL of fsspec whose
    package is installed. Empty: the folder `inspections` in the data folder. Credentials for S3 are those of the
    environment, as for every AWS program (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, a role).
    """
    s3_endpoint_url: EndpointUrl = ""
    """URL of an S3 server other than AWS, such as `https://minio.example:9000`."""
    artefacts_connect_timeout_s: float = Field(default=2.0, ge=0.1, le=300)
    """Seconds that a connection to S3 may take."""
    artefacts_read_timeout_s: float = Field(default=5.0, ge=0.1, le=300)
    """Seconds that S3 may take to respond to a request."""
    artefacts_attempts: int = Field(default=3, ge=1, le=20)
    """Most attempts of a request to S3, before an inspection is refused with 503. Pauses between them increase."""

    host: str = "127.0.0.1"
    """IP address to listen on. `0.0.0.0` makes the service reachable from the network, which needs an API key or an
    account: see `insecure`.
    """
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port to listen on; 0 selects a free port and logs it."""

    allowed_hosts: HostNames = frozenset()
    """Comma-separated host names under which clients may reach the service, beside IP addresses, `localhost` and the
    name of the machine. Requests with another `Host` header are refused.
    """
    allowed_origins: Origins = frozenset()
    """Comma-separated origins of other web pages that may use the service, such as `https://mes.example:8443`. Browsers
    may read the responses from there (CORS). Pages of every other origin are refused.
    """
    tls_certificate: OptionalPath = None
    """PEM file with the TLS certificate and its intermediate certificates. With it, the service speaks HTTPS only. A
    changed file is used for new connections within some seconds, without a restart.
    """
    tls_key: OptionalPath = None
    """PEM file with the private key of the certificate. Empty: the certificate's file contains it."""

    time_zone: ZoneName = "UTC"
    """IANA name of the time zone of times and shifts on the pages, such as `Europe/Berlin`."""
    shifts: ShiftTimes = "06:00,14:00,22:00"
    """Local times at which shifts begin, ascending and comma-separated. The counters of the live page begin there."""

    # Access
    insecure: bool = False
    """Whether the network may reach the service without any API key or account. Without it, the service does not start
    on another address than the loopback interface before a key or an account exists. It has no effect afterwards.
    """
    metrics_open: OptionalBool = None
    """Whether `/metrics` needs no API key. Empty: if the service listens on the loopback interface, requests of its own
    machine need none; all others need a key with the scope `inspect`.
    """
    login_attempts: int = Field(default=10, ge=1, le=10_000)
    """Most attempts of one client to log in to one account within `login_window_s`. Five times as many are permitted to
    one client for all accounts, and ten times as many to all clients for one account."""
    login_window_s: float = Field(default=300.0, gt=0, le=86_400)
    """Seconds for which an attempt to log in counts."""
    session_idle_s: float = Field(default=3600.0, gt=0, le=30 * 86_400)
    """Seconds without a request after which the session of a person ends. What a page refreshes on its own, such as new
    inspections on the live page, does not count: raise it for a screen that nobody touches.
    """
    session_lifetime_s: float = Field(default=12 * 3600.0, gt=0, le=90 * 86_400)
    """Seconds after the log-in after which the session of a person ends, however it is used."""

    provider: Literal["auto", "cuda", "tensorrt", "openvino", "cpu"] = "auto"
    """Execution provider. `auto` uses CUDA where it works, else the CPU. `tensorrt` compiles graphs for the GPU;
    `openvino` uses Intel's runtime on the CPU (extra `openvino`). Except for `auto`, the service never falls back: if
    the provider does not work, the service is not ready, and readiness reports the reason.
    """
    threads: int | None = Field(default=None, ge=1, le=256)
    """CPU threads for one inference run. Empty: as many as the container's CPU quota."""
    required_products: Names = frozenset()
    """Comma-separated products that must be loaded before the service is ready. Empty: one product is enough."""
    bundle_memory_bytes: int | None = Field(default=None, ge=2**20, le=2**44)
    """Memory for the bundles of all products, in bytes. Bundles are then loaded with the first image of their product,
    and the one whose last use but one is the longest ago is unloaded for another one. A bundle counts the size of its
    `model.onnx`, 1.3 times this size if it is int8 or fp16, plus 5 MiB. Not counted: while a bundle is loaded, the
    contents of its `model.onnx` are in memory several times, and two bundles may be loaded at the same time.
    Empty: all bundles are loaded at the start and stay in memory.
    """
    pinned_products: Names = frozenset()
    """Comma-separated products whose bundles are loaded at the start and stay in memory despite `bundle_memory_bytes`.
    So do the bundles of `required_products`.
    """

    bundle_store: BundleStoreUrl = ""
    """Where several replicas share their bundles: `s3://BUCKET/PREFIX`, `file:///FOLDER`, or another URL of fsspec
    whose package is installed. The database lists them, and `models` is a local cache. Access to S3 is as for
    `artefacts_url`. Empty: the bundles are those in the folder `models`.
    """
    bundle_cache_bytes: int | None = Field(default=None, ge=2**20, le=2**50)
    """Most bytes of bundles in the local cache of the bundle store. Beyond it, the least recently used bundles that are
    not in memory are removed from the folder `models`; those in force last. Empty: no limit.
    """

    load_ahead_s: float = Field(default=5.0, ge=0, le=3600)
    """Longest time for which a starting process with a bundle store is not ready because it loads bundles into memory
    before their first images: those that were in memory when it ended, and those that were used most. In seconds; the
    rest is loaded while it serves. 0: it is ready at once.
    """

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, le=2**31 - 1)
    """Largest request body, in bytes. Checked while the body arrives."""
    max_bundle_bytes: int = Field(default=512 * 2**20, ge=1024, le=2**31 - 1)
    """Largest bundle that can be uploaded, in bytes. Applies to the archive and to its unpacked content."""
    max_uploads: int = Field(default=2, ge=1, le=100)
    """Most bundles that are uploaded at the same time."""
    upload_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    """Seconds that a client may take to send a bundle. A pause may last `body_timeout_s`."""
    min_upload_rate: int = Field(default=64 * 2**10, ge=1, le=2**30)
    """Lowest average rate of an uploaded bundle, in bytes per second, after its first 30 seconds. Slower uploads fail
    with 408.
    """
    min_free_bytes: int = Field(default=512 * 2**20, ge=0, le=2**50)
    """Free space on the disk of the model repository, in bytes, below which uploads of bundles are refused. It does not
    affect inspections: see `min_data_free_bytes`.
    """
    self_test_timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """Seconds that the self-test of a bundle may take, in a process of its own, and that opening the bundle in the
    service may take afterwards. A bundle that takes longer is not served.
    """
    self_test_memory_bytes: int = Field(default=4 * 2**30, ge=256 * 2**20, le=2**44)
    """Memory that the process of a self-test may use, in bytes. The service will need about as much for the bundle."""
    max_call_bytes: int = Field(default=512 * 2**20, ge=1024, le=2**40)
    """Largest body of a call with several images, in bytes. Applies to the body and to its unpacked content. Each image
    is limited by `max_body_bytes`.
    """
    max_call_images: int = Field(default=500, ge=1, le=10_000)
    """Largest number of images in one call."""
    max_training_bytes: int = Field(default=4 * 2**30, ge=2**20, le=2**44)
    """Most bytes of good images that are stored for training jobs, of all jobs together. Beyond it, good images are
    refused. They are removed when their job has ended.
    """
    training_retention_days: float = Field(default=7.0, ge=0, le=3650)
    """Days for which the images of a failed training job are kept."""
    max_pixels: int = Field(default=64_000_000, ge=1, le=2**30)
    """Largest image, in pixels (width x height). Checked in the file header, before decoding."""
    max_inflight_body_bytes: int = Field(default=256 * 2**20, ge=2**20, le=2**40)
    """Memory for request bodies and stream frames that are being received or inspected, in bytes, and the same amount
    for large responses that are being sent. Beyond it a request gets 503 with Retry-After.
    """
    max_connections: int = Field(default=1000, ge=8, le=100_000)
    """Most open connections. A lower limit holds if the process may not open enough files. If all are in use, the
    connection that has been idle for the longest time is closed for a new one.
    """
    header_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """Seconds that a client may take to send the headers of a request."""
    idle_timeout_s: float = Field(default=15.0, gt=0, le=3600)
    """Seconds after which a connection without a request is closed."""
    write_timeout_s: float = Field(default=20.0, gt=0, le=3600)
    """Seconds without progress after which the connection of a client that does not read its response is closed."""
    body_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a client may take to send one body; for a bundle and for a zip archive of images, the longest pause.
    After that the request fails with 408.
    """
    call_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    """Seconds that a client may take to send the body of a call with several images. Each image is limited by
    `body_timeout_s`.
    """
    min_body_rate: int = Field(default=4096, ge=1, le=2**30)
    """Lowest average rate of a body, in bytes per second, after its first 5 seconds. Slower requests fail with 408.
    Uploads of bundles have a limit of their own: see `min_upload_rate`.
    """
    queue_limit: int = Field(default=64, ge=1, le=10_000)
    """Most inspections in flight, waiting or running. Further ones get 503 with Retry-After. Clients have equal shares:
    if the queue is full, the client with most inspections in flight is refused first. In a lasting overload, fewer
    are in flight: see docs/how-to/operation.md.
    """
    max_streams: int = Field(default=16, ge=1, le=1000)
    """Most WebSocket streams at the same time. Each may hold a few frames in memory."""
    max_streams_per_client: int = Field(default=8, ge=1, le=1000)
    """Most WebSocket streams of one client (one IP address) at the same time."""
    stream_idle_timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """Seconds without a frame after which a stream is closed. If all streams are in use, a new one replaces the stream
    that has been idle for the longest time, but for at least 5 seconds.
    """
    max_event_streams: int = Field(default=64, ge=1, le=10_000)
    """Most streams of stored inspections (`/v1/inspections:events`) at the same time. Each live page that is visible
    has one. If all are in use, the oldest one of the client with most streams is closed for another client.
    """
    queue_deadline_s: float = Field(default=10.0, gt=0, le=3600)
    """Longest wait of an image in the queue, in seconds. After that the response is 503 instead of a late verdict."""
    max_batch: int | None = Field(default=None, ge=1, le=256)
    """Largest number of images in one inference run. Batches form only while the session is busy. Empty: 8 on a GPU
    (fewer with a shorter queue), and 1 on a CPU, where the time per image grows with the batch.
    """
    concurrent_runs: int | None = Field(default=None, ge=1, le=64)
    """Inference runs of a product's graph that may be in progress at the same time while images wait, with the provider
    `cpu`; others run one at a time. Empty: the number with the highest throughput, measured when a bundle is loaded. A
    single image always has all threads.
    """

    min_data_free_bytes: int = Field(default=64 * 2**20, ge=0, le=2**50)
    """Free disk space of the data folder, in bytes, below which the service is not ready. On a small file system a
    twentieth of its size is enough. Uploads have a limit of their own: see `min_free_bytes`.
    """
    retention_interval_s: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds between two runs of the job that deletes images and anomaly maps that the recipes no longer keep."""
    record_days: RecordDaysText = ""
    """Days after which records of inspections are removed, and exceptions: `365`, or `365,brake-disc=5475`, or
    `forever,washer=90`. Records whose image is stored or that people reviewed are kept. Empty: all are kept for ever.
    """

    idempotency_hours: float = Field(default=24.0, gt=0, le=8760)
    """Hours for which the service remembers the `Idempotency-Key` of a request. A request that is sent again later is
    inspected as a new one.
    """
    audit_head_interval_s: float = Field(default=600.0, gt=0, le=86_400)
    """Seconds between two reports of the newest hash of the audit log in the log of the service. Entries after
    the last report can be removed unnoticed with write access to the database.
    """
    drift_inspections_per_year: int = Field(default=10_000_000, ge=1000, le=10**12)
    """Inspections of one product or station per year. In so many, each kind of drift raises at most one false alarm:
    see docs/drift.md.
    """
    drift_reject_rate_inspections: int = Field(default=50_000, ge=1000, le=10**12)
    """Inspections in which the reject rate of one product or station raises at most one false alarm. An alarm suspends
    the guarantee only with the evidence that `drift_inspections_per_year` requires.
    """
    sinks: OptionalPath = None
    """TOML file that configures the webhooks and MQTT brokers to which inspections are sent. Empty: none."""
    outbox_limit: int = Field(default=100_000, ge=10, le=10_000_000)
    """Most messages to one sink that are not delivered yet. Beyond it, the oldest become dead letters."""
    outbox_dead_letter_limit: int = Field(default=100_000, ge=10, le=10_000_000)
    """Most dead letters of one sink. Beyond it, the oldest are deleted; their inspections are kept."""

    lookout_review_is_anomalous: bool = True
    """Whether the endpoint that is compatible with Amazon Lookout for Vision, which has two results only, reports the
    decision `review` as anomalous.
    """

    opcua_endpoint: str = ""
    """Endpoint of the OPC UA server, such as `opc.tcp://127.0.0.1:4840`. Empty: no OPC UA. An address that other
    machines reach needs `opcua_certificate`, and a user or trusted client certificates.
    """
    opcua_stations: Names = frozenset()
    """Comma-separated stations whose variables exist from the start. Others appear with their first inspection."""
    opcua_max_stations: int = Field(default=64, ge=1, le=1000)
    """Most stations in OPC UA. Inspections of further stations are not published there."""
    opcua_max_clients: int = Field(default=16, ge=1, le=1000)
    """Most OPC UA clients that are connected at the same time."""
    opcua_certificate: OptionalPath = None
    """PEM or DER file with the certificate (RSA) of the OPC UA server. With it, connections without encryption or
    signature are refused.
    """
    opcua_key: OptionalPath = None
    """PEM or DER file with the private key of the OPC UA certificate."""
    opcua_user: str = ""
    """Name that OPC UA clients log in with. Empty: clients do not log in."""
    opcua_password: SecretStr = SecretStr("")
    """Password of the OPC UA user. Prefer `opcua_password_file`: other users of the machine see the options of a
    command."""
    opcua_password_file: OptionalPath = None
    """File with the password of the OPC UA user."""
    opcua_trusted: OptionalPath = None
    """Folder with the certificates (PEM or DER) of the OPC UA clients that may connect. Empty: every certificate."""
    opcua_insecure: bool = False
    """Allow an OPC UA endpoint that other machines reach without encryption and without login."""
    otel_endpoint: str = ""
    """URL of an OpenTelemetry collector (OTLP over HTTP), such as `http://127.0.0.1:4318`. Empty: no OpenTelemetry. The
    standard `OTEL_*` variables set everything else.
    """

    heatmap_format: Literal["png", "jpeg", "webp"] = "jpeg"
    """Format of a heatmap if the request does not name one."""
    heatmap_quality: int = Field(default=90, ge=1, le=100)
    """JPEG and WebP quality of heatmaps."""
    heatmap_colormap: Literal["cyan-violet", "turbo", "viridis", "cividis", "inferno"] = "cyan-violet"
    """Colour map of heatmaps. The default is legible on brown, red and gray parts and for colour-blind people."""

    preview_cache_bytes: int = Field(default=64 * 2**20, ge=0, le=2**40)
    """Memory for previews of images and heatmaps, in bytes, so that pages do not draw one twice. 0 keeps none."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged. `debug` logs one line per inspection."""
    log_refusals_per_minute: int = Field(default=60, ge=0, le=100_000)
    """Most log lines per minute about refused requests (4xx, 5xx), for each problem. Further ones are only counted."""
    log_format: Literal["json", "console"] = "json"
    """`json` for log collectors, `console` for reading in a terminal."""

    shutdown_delay_s: float = Field(default=1.0, ge=0, le=300)
    """Seconds between "not ready" and closing the port, so that a load balancer can redirect its traffic."""
    shutdown_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds for accepted inspections after the port was closed. The process ends at most 10 s after them."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.data == self.models or self.models in self.data.parents:
            raise ValueError(
                f"the data folder {str(self.data)!r} lies in the model repository {str(self.models)!r}, where every "
                "folder is a product; choose another data folder"
            )
        if self.bundle_cache_bytes is not None and not self.bundle_store:
            raise ValueError("bundle_cache_bytes is set but bundle_store is not; it limits the cache of a bundle store")
        if self.bundle_store and self.bundle_store == self.models.as_uri():
            raise ValueError(
                f"bundle_store and models are the same folder {str(self.models)!r}, but models is a cache of the "
                "store; choose another folder for one of them"
            )
        if self.database_url.startswith("postgresql") and self.database_pool_size < _MIN_POOL:
            raise ValueError(
                f"database_pool_size is {self.database_pool_size}, but PostgreSQL needs at least {_MIN_POOL}: up to "
                "three connections are kept for jobs that one process does"
            )
        if (days := parse_record_days(self.record_days).shortest or MAX_DAYS) * 24 < self.idempotency_hours:
            raise ValueError(f"record_days ({days:g} days) is less than idempotency_hours: raise it, or lower that one")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key is set but tls_certificate is not; HTTPS needs both")
        if self.max_body_bytes > self.max_inflight_body_bytes:
            raise ValueError(
                f"max_body_bytes ({self.max_body_bytes}) is larger than max_inflight_body_bytes "
                f"({self.max_inflight_body_bytes}), so the largest body could never be received; raise "
                "max_inflight_body_bytes"
            )
        if self.max_batch is not None and self.max_batch > self.queue_limit:
            raise ValueError(
                f"max_batch ({self.max_batch}) is larger than queue_limit ({self.queue_limit}), so a full batch "
                "could never form; lower max_batch or raise queue_limit"
            )
        return self

    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL in use."""
        return self.database_url or f"sqlite:///{self.data / 'plumbline.db'}"

    @property
    def is_loopback(self) -> bool:
        """Return whether the service listens on the loopback interface only."""
        return is_loopback(self.host)

    @property
    def are_metrics_open(self) -> bool:
        """Return whether `/metrics` needs no API key."""
        return self.is_loopback if self.metrics_open is None else self.metrics_open

    @property
    def heatmap_media_type(self) -> str:
        """Return the media type of heatmaps if the request does not name one."""
        return f"image/{self.heatmap_format}"
