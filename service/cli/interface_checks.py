"""The checks of `plumbline doctor` for OPC UA and OpenTelemetry."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from service.api.http.certificates import EXPIRY_WARNING_DAYS
from service.cli.findings import Finding, Health
from service.cli.network_checks import service_owner
from service.errors import CannotStart
from service.host_names import is_loopback
from service.integrations.opcua.options import OpcuaOptions, check_port
from service.integrations.opcua.options import read_options as read_opcua
from service.integrations.otel.options import read_options as read_otel
from service.settings import Settings

OPCUA, OTEL = "opc ua", "opentelemetry"
_CONNECT_S = 2.0


def check_opcua(settings: Settings) -> Iterator[Finding]:
    """Check package, port, certificate and access of the OPC UA server."""
    try:
        options = read_opcua(settings)
        if options is None:
            return
    except CannotStart as error:
        yield Finding(OPCUA, Health.PROBLEM, error.reason, error.remedy)
        return
    try:
        check_port(options)
        yield Finding(OPCUA, Health.OK, f"{options.endpoint} is free")
    except CannotStart as error:
        owner = service_owner(settings)
        if owner is None:
            yield Finding(OPCUA, Health.PROBLEM, error.reason, error.remedy)
            return
        text = f"{options.endpoint} is in use, and the service of this data folder is running ({owner})"
        yield Finding(OPCUA, Health.OK, text)
    if options.identity is None and not is_loopback(options.host):
        yield Finding(
            OPCUA,
            Health.WARNING,
            f"{options.endpoint} is reachable from the network without encryption (PLUMBLINE_OPCUA_INSECURE)",
            "Set PLUMBLINE_OPCUA_CERTIFICATE, PLUMBLINE_OPCUA_KEY, and a user or trusted client certificates.",
        )
    yield from _check_identity(options)


def _check_identity(options: OpcuaOptions) -> Iterator[Finding]:
    if options.identity is None:
        return
    certificate, now = options.identity.certificate, datetime.now(UTC)
    days = (certificate.not_valid_after_utc - now).total_seconds() / 86_400
    renew = "Renew the certificate of the OPC UA server, and trust the new one in its clients."
    if days < 0:
        yield Finding(
            OPCUA, Health.PROBLEM, f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}", renew
        )
    elif certificate.not_valid_before_utc > now:
        remedy = "Check the clock of this machine, or wait."
        yield Finding(OPCUA, Health.PROBLEM, "the certificate is not valid yet", remedy)
    elif days < EXPIRY_WARNING_DAYS:
        yield Finding(OPCUA, Health.WARNING, f"the certificate expires in {days:.0f} days", renew)
    else:
        yield Finding(OPCUA, Health.OK, f"the certificate is valid until {certificate.not_valid_after_utc:%Y-%m-%d}")
    if options.identity.application_uri is None:
        yield Finding(
            OPCUA,
            Health.WARNING,
            "the certificate contains no application URI, so most OPC UA clients refuse it",
            "Make a certificate with a subject alternative name of type URI, such as urn:line-4:plumbline.",
        )


def check_otel(settings: Settings) -> Iterator[Finding]:
    """Check package and collector of OpenTelemetry. A collector that is not reachable does not affect inspections."""
    try:
        options = read_otel(settings)
    except CannotStart as error:
        yield Finding(OTEL, Health.PROBLEM, error.reason, error.remedy)
        return
    if options is None:
        return
    for url in dict.fromkeys(filter(None, (options.traces, options.metrics))):
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S):
                yield Finding(OTEL, Health.OK, f"{url} accepts connections")
        except OSError as error:
            reason = error.strerror or "no response"
            remedy = "Start the collector, or correct PLUMBLINE_OTEL_ENDPOINT. Inspections are not affected."
            yield Finding(OTEL, Health.WARNING, f"{url} is not reachable ({reason})", remedy)
