"""The file that configures the sinks (`PLUMBLINE_SINKS`).

Only an administrator of the machine writes this file, so its URLs are not restricted to certain networks.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.integrations.errors import SinksInvalid
from service.schemas.sections import DecisionName
from service.schemas.violations import describe_violations, list_violations
from service.store.outbox import Subscription

MAX_SECRET_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
Include = Literal["regions", "links"]


class SecretSource(BaseModel):
    """Where a secret is read from when the service starts: an environment variable or a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str | None = Field(default=None, min_length=1)
    file: Path | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError('expected either { env = "NAME" } or { file = "/path" }')
        return self

    def read(self, sink: str, option: str) -> str:
        """Return the secret, without white space at its ends.

        Args:
            sink: Name of the sink, for the message.
            option: Name of the option, for the message.

        Raises:
            SinksInvalid: The variable or the file does not exist, or is empty.
        """
        if self.env is not None:
            text, place = os.environ.get(self.env, ""), f"the environment variable {self.env}"
        else:
            assert self.file is not None
            place = str(self.file)
            try:
                with self.file.open("rb") as file:
                    text = file.read(MAX_SECRET_BYTES).decode("utf-8")
            except OSError as error:
                raise SinksInvalid(
                    f"sink {sink!r}: {option} is read from {place}, which cannot be read ({error.strerror})."
                ) from error
            except UnicodeDecodeError as error:
                raise SinksInvalid(f"sink {sink!r}: {option} is read from {place}, which is not UTF-8 text.") from error
        if not (secret := text.strip()):
            raise SinksInvalid(f"sink {sink!r}: {option} is read from {place}, which is not set or empty.")
        return secret


def _refuse_literal(value: object) -> object:
    if isinstance(value, str):
        raise ValueError('a secret must not be written in this file; use { env = "NAME" } or { file = "/path" }')
    return value


Secret = Annotated[SecretSource, BeforeValidator(_refuse_literal)]


class Tls(BaseModel):
    """TLS of a connection to a receiver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca_file: Path | None = None
    """PEM file of the certificate authorities to trust; None for those of the system."""
    cert_file: Path | None = None
    """PEM file with the client certificate and its chain."""
    key_file: Path | None = None
    """PEM file with the private key, if `cert_file` does not contain it."""

    @model_validator(mode="after")
    def _require_certificate(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file")
        return self


class _Sink(BaseModel):
    """Options that every kind of sink has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)

    name: str
    """At most 64 lower-case letters, digits, `-` and `_`."""
    products: frozenset[str] | None = Field(default=None, min_length=1)
    """Products of the inspections that are sent; None for all."""
    decisions: frozenset[DecisionName] | None = Field(default=None, min_length=1)
    """Decisions that are sent; None for all."""
    include: frozenset[Include] = frozenset({"regions", "links"})
    """Parts of the inspection that are sent beside the rest."""
    base_url: str | None = None
    """URL of this service, as receivers reach it, for absolute links."""
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds that one attempt may take."""
    backoff_base_s: float = Field(default=1.0, gt=0, le=60)
    """Largest delay before the second attempt, in seconds. It doubles with every further attempt."""
    backoff_max_s: float = Field(default=60.0, gt=0, le=3600)
    """Largest delay between two attempts, in seconds."""
    max_attempts: int = Field(default=20, ge=1, le=1000)
    """Attempts that the receiver answers with an error, after which a message is given up. Attempts that do not reach
    the receiver do not count.
    """
    max_age_h: float = Field(default=72.0, gt=0, le=8760)
    """Hours after which a message that could not be delivered is given up."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError("expected at most 64 lower-case letters, digits, - and _, and no - or _ at the start")
        return name

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str | None) -> str | None:
        return None if url is None else _checked_url(url).rstrip("/")

    @property
    def subscription(self) -> Subscription:
        """Return which inspections the sink receives."""
        return Subscription(self.name, self.products, None if self.decisions is None else frozenset(self.decisions))


class WebhookConfig(_Sink):
    """A sink that receives HTTP requests."""

    kind: Literal["webhook"]
    url: str | SecretSource
    """The URL, or where it is read from, if it contains a secret."""
    secret: Secret | None = None
    """Key of the HMAC-SHA256 signature; None for requests without a signature."""
    bearer_token: Secret | None = None
    """Token for the header `Authorization`."""
    tls: Tls = Tls()
    proxy: str | None = None
    """URL of an HTTP proxy."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Most requests at the same time. Messages of one product are sent one after the other."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | SecretSource) -> str | SecretSource:
        return _checked_url(url) if isinstance(url, str) else url

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, url: str | None) -> str | None:
        return None if url is None else _checked_url(url)

    def read_bearer_token(self) -> str | None:
        """Return the token, or None.

        Raises:
            SinksInvalid: It cannot be read, or a header cannot contain it.
        """
        if self.bearer_token is None:
            return None
        token = self.bearer_token.read(self.name, "bearer_token")
        if _VISIBLE_ASCII.fullmatch(token) is None:
            raise SinksInvalid(
                f"sink {self.name!r}: bearer_token contains white space or a character that is not ASCII; expected "
                "visible ASCII characters only."
            )
        return token

    def read_url(self) -> str:
        """Return the URL.

        Raises:
            SinksInvalid: It cannot be read, or is not a URL.
        """
        if isinstance(self.url, str):
            return self.url
        try:
            return _checked_url(self.url.read(self.name, "url"))
        except ValueError as error:
            raise SinksInvalid(f"sink {self.name!r}: url: {error}.") from error


class MqttConfig(_Sink):
    """A sink that publishes to an MQTT broker."""

    kind: Literal["mqtt"]
    host: str = Field(min_length=1, max_length=253)
    port: int = Field(default=1883, ge=1, le=65535)
    site: str = Field(min_length=1, max_length=64)
    """First level of the topics below `topic_prefix`, such as the name of the plant."""
    client_id: str = Field(min_length=1, max_length=64)
    """Identifies this service at the broker. Two services with the same client id disconnect each other."""
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    """Version of MQTT. Messages of version 5 contain the trace context, and its brokers state why they refuse one."""
    topic_prefix: str = Field(default="plumbline", min_length=1, max_length=128)
    username: Secret | None = None
    password: Secret | None = None
    tls: Tls | None = None
    """TLS; None for a connection without encryption. `tls = {}` trusts the certificate authorities of the system."""
    keep_alive_s: int = Field(default=30, ge=5, le=3600)
    """Longest pause without a packet, in seconds, after which the broker declares this service dead."""
    retain: bool = False
    """Whether the broker keeps the newest verdict of each topic for new subscribers."""
    concurrency: int = Field(default=8, ge=1, le=20)
    """Most messages without an acknowledgement at the same time. Messages of one product are sent one after the other.
    """

    @field_validator("topic_prefix")
    @classmethod
    def _check_topic_prefix(cls, prefix: str) -> str:
        if prefix.startswith(("/", "$")) or prefix.endswith("/") or any(char in "+#" or char < " " for char in prefix):
            raise ValueError("expected levels of a topic such as plant/line3, without +, # and $ at the start")
        return prefix

    @model_validator(mode="after")
    def _require_username(self) -> Self:
        if self.password is not None and self.username is None:
            raise ValueError("password needs username")
        return self


SinkConfig = WebhookConfig | MqttConfig


class _SinkFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sink: list[Annotated[SinkConfig, Field(discriminator="kind")]] = Field(default=[], max_length=32)

    @model_validator(mode="after")
    def _require_unique(self) -> Self:
        names = [sink.name for sink in self.sink]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {twice[0]!r} is used more than once; the names of sinks must differ")
        return self


def read_sinks(path: Path | None) -> tuple[SinkConfig, ...]:
    """Read and check the file that configures the sinks. Secrets are not read yet.

    Args:
        path: A TOML file; None for no sinks.

    Raises:
        SinksInvalid: The file cannot be read or is not valid.
    """
    if path is None:
        return ()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SinksInvalid(f"{path} cannot be read ({error.strerror}). Check PLUMBLINE_SINKS.") from error
    except UnicodeDecodeError as error:
        raise SinksInvalid(f"{path} is not a text file in UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        # The message of the library may quote the file, in which somebody may have written a secret.
        raise SinksInvalid(f"{path} is not valid TOML{_position(str(error))}.") from error
    except ValueError as error:  # Python limits the number of digits, because reading them takes long
        raise SinksInvalid(f"{path} has a number with too many digits.") from error
    except RecursionError as error:
        raise SinksInvalid(f"{path} is nested too deeply.") from error
    try:
        return tuple(_SinkFile.model_validate(content).sink)
    except ValidationError as error:
        violations = [item | {"loc": _location(content, item["loc"])} for item in list_violations(error)]
        raise SinksInvalid(f"{path} is not valid: {describe_violations(violations)}.") from error


def _location(content: dict[str, Any], location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return a location with the name of the sink instead of its position and its kind."""
    match location:
        case ("sink", int(position), *rest):
            entry = content["sink"][position]
            name = entry.get("name") if isinstance(entry, dict) else None
            is_kind = bool(rest) and rest[0] in {"webhook", "mqtt"}
            sink = f"sink {name!r}" if isinstance(name, str) else f"sink {position + 1}"
            return (sink, *(part for part in rest[1 if is_kind else 0 :] if part not in {"str", "SecretSource"}))
    return location


def _position(message: str) -> str:
    """Return the line and column in a message of the TOML reader."""
    _, found, place = message.rpartition("(at ")
    return f" (at {place.removesuffix(')')})" if found else ""


def _checked_url(url: str) -> str:
    """Return an absolute HTTP URL without credentials.

    Raises:
        ValueError: It is not one. The message does not quote it.
    """
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise ValueError("expected a URL such as https://host/path") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not has_port or any(char <= " " for char in url):
        raise ValueError("expected a URL such as https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain credentials; use bearer_token, or read the whole url from a secret")
    if parts.fragment:
        raise ValueError("must not contain a fragment (#)")
    return url
