"""Every setting of the service: one class, read from `PLUMBLINE_*` environment variables.

The text under each field is its documentation; `plumbline serve --help` and `plumbline doctor` show the same
names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "PLUMBLINE_"


class Settings(BaseSettings):
    """What a running service may be told from outside. Immutable once the process runs."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    models: Path = Path("models")
    """Model repository: one folder per product, one bundle per version. Only an upload writes to it."""
    data: Path = Path("data")
    """Where inspections are stored: the database and the images and maps. Must be writable."""
    database_url: str = ""
    """SQLAlchemy URL. Empty: SQLite in the data folder. PostgreSQL:
    `postgresql+psycopg://user:password@host/name`.
    """

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` opens the service, which has no access control of its own, to the
    network.
    """
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port to listen on; 0 picks a free one and logs it."""

    provider: Literal["auto", "cuda", "cpu"] = "auto"
    """Execution provider. `cuda` refuses to fall back: without a working GPU the service is not ready and
    says why.
    """
    threads: int | None = Field(default=None, ge=1, le=256)
    """CPU threads of one graph run. Empty: the container's CPU quota."""
    required_products: Annotated[frozenset[str], NoDecode] = frozenset()
    """Products (comma-separated) without which the service is not ready. Empty: any one product makes it
    ready.
    """

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, le=2**31 - 1)
    """Largest request body, in bytes. Checked while the body arrives, never after."""
    max_bundle_bytes: int = Field(default=512 * 2**20, ge=1024, le=2**31 - 1)
    """Largest bundle that may be uploaded, in bytes, as an archive and unpacked."""
    max_call_bytes: int = Field(default=512 * 2**20, ge=1024, le=2**40)
    """Largest body of a call with several images, in bytes, as sent and unpacked. Each of them is bounded by
    `max_body_bytes`.
    """
    max_call_images: int = Field(default=500, ge=1, le=10_000)
    """Most images in one call."""
    max_pixels: int = Field(default=64_000_000, ge=1, le=2**30)
    """Largest image, in pixels (width x height). Checked on the file's header, before decoding."""
    body_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds a client may take to send one body before its place in the queue is given to somebody else."""
    queue_limit: int = Field(default=64, ge=1, le=10_000)
    """Inspections in the house at a time, waiting and in work. The next one gets 503 with Retry-After."""
    max_streams: int = Field(default=16, ge=1, le=1000)
    """Cameras that may stream over a WebSocket at a time. Each may have a few frames in memory."""
    queue_deadline_s: float = Field(default=10.0, gt=0, le=3600)
    """Longest wait for a turn, in seconds. Who waited longer gets 503 instead of a late verdict."""
    max_batch: int = Field(default=8, ge=1, le=256)
    """Images that one graph run may take together. Batches form only while the session is busy."""

    retention_interval_s: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds from one look for images and maps that the recipes need not keep to the next. Younger ones stay."""

    heatmap_format: Literal["png", "jpeg", "webp"] = "jpeg"
    """Format of a heatmap when the request does not name one."""
    heatmap_quality: int = Field(default=90, ge=1, le=100)
    """JPEG and WebP quality of heatmaps."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important log line that is written. `debug` writes one line per inspection."""
    log_format: Literal["json", "console"] = "json"
    """`json` for log collectors, `console` for people."""

    shutdown_delay_s: float = Field(default=1.0, ge=0, le=300)
    """Seconds between "not ready" and closing the port, so that a load balancer can look elsewhere."""
    shutdown_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that accepted inspections get to finish after the port was closed."""

    @field_validator("models", "data")
    @classmethod
    def _name_a_folder(cls, folder: Path) -> Path:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file, expected a folder; name the folder that holds it")
        return folder.absolute()

    @field_validator("required_products", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("database_url")
    @classmethod
    def _know_the_database(cls, url: str) -> str:
        if url and not url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError(
                "expected sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME; leave it empty "
                "for SQLite in the data folder"
            )
        if url in {"sqlite:///", "sqlite:///:memory:"}:
            raise ValueError("an in-memory database forgets every inspection at exit; name a file or leave it empty")
        return url

    @model_validator(mode="after")
    def _keep_folders_apart(self) -> Self:
        if self.data == self.models or self.models in self.data.parents:
            raise ValueError(
                f"the data folder {self.data} lies in the model repository {self.models}, whose every "
                "folder is a product; choose another data folder"
            )
        if self.max_batch > self.queue_limit:
            raise ValueError(
                f"max_batch ({self.max_batch}) is larger than queue_limit ({self.queue_limit}), so a full batch "
                "could never form; lower the one or raise the other"
            )
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use."""
        return self.database_url or f"sqlite:///{self.data / 'plumbline.db'}"

    @property
    def heatmap_media_type(self) -> str:
        return f"image/{self.heatmap_format}"
