"""The checks of `plumbline doctor` for the port and the TLS certificate."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx

from service.api.http.certificates import (
    EXPIRY_WARNING_DAYS,
    CertificateFacts,
    CertificateFiles,
    CertificateUnusable,
    days_left,
)
from service.api.http.origin import is_own, own_hosts
from service.cli.findings import Finding, Health
from service.host_names import is_loopback, machine_names
from service.server import PORT_REMEDY
from service.settings import Settings
from service.store.lock import LOCK_NAME, lock_owner

_RESPONSE_S = 3.0


def check_port(settings: Settings) -> Iterator[Finding]:
    """Check that the service can listen on its port, or that the service of this data folder does."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and (owner := service_owner(settings)) and _responds(settings):
                text = f"{settings.host}:{settings.port} is in use by the service of this data folder, {owner}"
                yield Finding("port", Health.OK, text)
                return
            text = f"{settings.host}:{settings.port}: {error.strerror}"
            yield Finding("port", Health.PROBLEM, text, PORT_REMEDY)
            return
    yield Finding("port", Health.OK, f"{settings.host}:{settings.port} is free")


def check_certificate(settings: Settings) -> Iterator[Finding]:
    """Check the TLS certificate: validity, names and the permissions of its key."""
    files = CertificateFiles.from_settings(settings)
    if files is None:
        return
    try:
        facts = files.examine()
    except CertificateUnusable as error:
        yield Finding("certificate", Health.PROBLEM, error.reason, error.remedy)
        return
    renew = f"Renew the certificate and write it to {files.certificate} and {files.key}."
    days, names = days_left(facts), ", ".join(facts.names)
    if days < 0:
        yield Finding("certificate", Health.PROBLEM, f"expired on {facts.not_after:%Y-%m-%d}", renew)
    elif facts.not_before > datetime.now(UTC):
        remedy = "Check the clock of this machine, or wait."
        yield Finding("certificate", Health.PROBLEM, f"not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC", remedy)
    elif days < EXPIRY_WARNING_DAYS:
        yield Finding("certificate", Health.WARNING, f"expires in {days:.0f} days", renew)
    else:
        yield Finding("certificate", Health.OK, f"valid until {facts.not_after:%Y-%m-%d}, for {names or 'no name'}")
    yield from _check_names(settings, facts)
    if files.is_key_readable_by_others:
        text = f"other users of this machine may read the private key {files.key}"
        yield Finding("certificate", Health.WARNING, text, f"chmod 600 {files.key}")


def _check_names(settings: Settings, facts: CertificateFacts) -> Iterator[Finding]:
    if not facts.names:
        text = "contains no subject alternative name (subjectAltName), so clients refuse it"
        remedy = "Make a certificate with the host names and IP addresses of this machine as subject alternative names."
        yield Finding("certificate", Health.WARNING, text, remedy)
        return
    if not is_loopback(settings.host) and not any(map(facts.is_valid_for, machine_names(settings.allowed_hosts))):
        text = f"valid for {', '.join(facts.names)}, not for the name of this machine ({socket.gethostname()})"
        remedy = "Clients refuse it, unless they connect under one of its names (subject alternative names)."
        yield Finding("certificate", Health.WARNING, text, remedy)
    hosts = own_hosts(settings)
    # A wildcard stands for names that are not known here.
    refused = [name for name in facts.names if not name.startswith("*.") and not is_own(name, hosts)]
    if refused:
        text = f"valid for {', '.join(refused)}, but the service refuses requests for such a host"
        remedy = f"Set PLUMBLINE_ALLOWED_HOSTS={','.join(sorted({*settings.allowed_hosts, *refused}))}."
        yield Finding("certificate", Health.WARNING, text, remedy)


def service_owner(settings: Settings) -> str | None:
    """Return the process that uses the data folder, such as `pid 4711 on line-pc, ...`; None if there is none."""
    return lock_owner(settings.data / LOCK_NAME)


def _responds(settings: Settings) -> bool:
    """Return whether a Plumbline service listens on the port."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - connects only
    scheme = "http" if settings.tls_certificate is None else "https"
    netloc = f"[{host}]" if ":" in host else host
    try:
        # Nothing secret is sent, and whether clients accept the certificate is checked elsewhere.
        response = httpx.get(
            f"{scheme}://{netloc}:{settings.port}/health/live",
            verify=False,
            timeout=_RESPONSE_S,
            trust_env=False,
        )
        return bool(response.json() == {"status": "alive"})
    except (httpx.HTTPError, OSError, ValueError):  # httpx passes on some TLS errors as they are
        return False
