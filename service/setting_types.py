"""Types of settings: how their texts are read, and which values are valid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from service.host_names import parse_host, parse_origin
from service.record_days import parse_record_days
from service.shift_times import parse_shifts


def _to_path(value: object) -> object:
    # pydantic cannot read a text with bytes that are not UTF-8, which a path may contain.
    return Path(value) if isinstance(value, str) else value


def _check_folder(folder: Path) -> Path:
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise ValueError(f"{str(folder)!r} cannot be the name of a folder: {error.strerror}") from error
    if is_file:
        raise ValueError(f"{str(folder)!r} is a file, expected a folder")
    return folder.absolute()


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _split_names(value: object) -> object:
    if isinstance(value, str):
        return frozenset(name.strip() for name in value.split(",") if name.strip())
    return value


def _check_hosts(hosts: frozenset[str]) -> frozenset[str]:
    return frozenset(map(parse_host, hosts))


def _check_origins(origins: frozenset[str]) -> frozenset[str]:
    return frozenset(map(parse_origin, origins))


def _check_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("expected a time zone of the IANA database, such as Europe/Berlin or UTC") from error
    return name


def _check_shifts(text: str) -> str:
    return ",".join(f"{start:%H:%M}" for start in parse_shifts(text))


def _check_record_days(text: str) -> str:
    parse_record_days(text)
    return text


def _check_database_url(url: str) -> str:
    if url and not url.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError(
            "expected sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME; leave it empty "
            "for SQLite in the data folder"
        )
    if url in {"sqlite:///", "sqlite:///:memory:"}:
        raise ValueError("an in-memory database loses every inspection at exit; name a file or leave it empty")
    return url


def _check_artefacts_url(url: str) -> str:
    return _check_storage_url(url, "leave it empty for the data folder")


def _check_bundle_store_url(url: str) -> str:
    return _check_storage_url(url, "leave it empty for the folder of the model repository")


def _check_storage_url(url: str, otherwise: str) -> str:
    if not url:
        return url
    expected = f"expected s3://BUCKET/PREFIX or file:///FOLDER; {otherwise}"
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.isalnum():
        raise ValueError(expected)
    if "@" in rest.partition("/")[0]:
        raise ValueError("user and password do not belong into this URL; set them in the environment")
    if not rest.strip("/") or (scheme == "file" and not rest.startswith("/")):
        raise ValueError(expected)
    return url.rstrip("/")


def _check_endpoint_url(url: str) -> str:
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("expected http://HOST:PORT or https://HOST:PORT; leave it empty for AWS")
    return url


Folder = Annotated[Path, BeforeValidator(_to_path), AfterValidator(_check_folder)]
"""A folder, which need not exist yet, as an absolute path."""
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_none)]
"""A path; an empty text is None."""
OptionalBool = Annotated[bool | None, BeforeValidator(_empty_is_none)]
"""A truth value; an empty text is None."""
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_split_names)]
"""Comma-separated names."""
HostNames = Annotated[Names, AfterValidator(_check_hosts)]
"""Comma-separated host names."""
Origins = Annotated[Names, AfterValidator(_check_origins)]
"""Comma-separated origins of web pages."""
ZoneName = Annotated[str, AfterValidator(_check_time_zone)]
"""IANA name of a time zone."""
ShiftTimes = Annotated[str, AfterValidator(_check_shifts)]
"""Comma-separated local times, ascending."""
RecordDaysText = Annotated[str, AfterValidator(_check_record_days)]
"""Days that records are kept, with exceptions of products, or an empty text."""
DatabaseUrl = Annotated[str, AfterValidator(_check_database_url)]
"""SQLAlchemy URL of SQLite or PostgreSQL, or an empty text."""
ArtefactsUrl = Annotated[str, AfterValidator(_check_artefacts_url)]
"""URL of fsspec without credentials, or an empty text."""
BundleStoreUrl = Annotated[str, AfterValidator(_check_bundle_store_url)]
"""URL of fsspec without credentials, or an empty text."""
EndpointUrl = Annotated[str, AfterValidator(_check_endpoint_url)]
"""HTTP or HTTPS URL, or an empty text."""
