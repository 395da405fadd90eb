"""The TLS certificate of the server: loading, examination, and reload when its files change."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from service.monitoring.metrics import Metrics
from service.settings import Settings

log = structlog.get_logger(__name__)

EXPIRY_WARNING_DAYS = 21
_GROUP_OR_OTHERS = 0o077


class CertificateUnusable(Exception):
    """The TLS certificate or its key cannot be used.

    Attributes:
        reason: Which file is wrong, and what is wrong with it.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason} {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate states.

    Attributes:
        names: Host names and IP addresses that it is valid for.
        not_before: Start of its validity.
        not_after: End of its validity.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def is_valid_for(self, host: str) -> bool:
        """Return whether a client that connects to this host name or IP address accepts the certificate."""
        host = host.lower()
        parent = host.partition(".")[2]
        return host in self.names or (f"*.{parent}" in self.names and bool(parent))


@dataclass(frozen=True)
class CertificateFiles:
    """The files of a certificate and its private key.

    Attributes:
        certificate: PEM file with the certificate and its intermediate certificates.
        key: PEM file with the private key; the same file if it contains both.
    """

    certificate: Path
    key: Path

    @classmethod
    def from_settings(cls, settings: Settings) -> CertificateFiles | None:
        """Return the files that the settings name; None if the service does not speak TLS."""
        if settings.tls_certificate is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key or settings.tls_certificate)

    def context(self) -> ssl.SSLContext:
        """Return a context of a server that uses the certificate. It speaks TLS 1.2 and 1.3.

        Raises:
            CertificateUnusable: The files cannot be read or do not belong together.
        """
        self.examine()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password=_refuse_password)
        except (OSError, ValueError) as error:
            raise CertificateUnusable(
                f"The certificate {self.certificate} cannot be used with the key {self.key}.",
                "Check that every certificate in the file has a key of at least 2048 bits (RSA) or 224 bits (EC).",
            ) from error
        return context

    def examine(self) -> CertificateFacts:
        """Return what the certificate states.

        Raises:
            CertificateUnusable: The files cannot be read, or the key is not the one of the certificate.
        """
        chain = self._chain()
        key = self._private_key()
        if _public_bytes(key.public_key()) != _public_bytes(chain[0].public_key()):
            raise CertificateUnusable(
                f"The key {self.key} does not belong to the first certificate in {self.certificate}.",
                "The certificate of the server must come first, before the intermediate certificates.",
            )
        leaf = chain[0]
        return CertificateFacts(tuple(_names(leaf)), leaf.not_valid_before_utc, leaf.not_valid_after_utc)

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return a value that changes when one of the files is replaced or rewritten; empty if one is missing."""
        try:
            found = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return ()
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)

    @property
    def is_key_readable_by_others(self) -> bool:
        """Whether other users of the machine may read the private key."""
        return bool(self.key.stat().st_mode & _GROUP_OR_OTHERS)

    def _chain(self) -> Sequence[x509.Certificate]:
        try:
            chain = x509.load_pem_x509_certificates(_read(self.certificate, "certificate"))
        except ValueError as error:
            raise CertificateUnusable(
                f"The file {self.certificate} contains no PEM certificate that can be read.",
                "Expected a text file with -----BEGIN CERTIFICATE-----.",
            ) from error
        return chain

    def _private_key(self) -> PrivateKeyTypes:
        data = _read(self.key, "private key")
        try:
            return load_pem_private_key(data, password=None)
        except TypeError as error:
            raise CertificateUnusable(
                f"The private key {self.key} is encrypted.",
                "Store it without a password, readable by the user of the service only.",
            ) from error
        except ValueError as error:
            raise CertificateUnusable(
                f"The file {self.key} contains no PEM private key that can be read.",
                "Expected a text file with -----BEGIN PRIVATE KEY-----.",
            ) from error


class CertificateReloader:
    """Provides the context of new connections: of the newest certificate that can be used.

    A changed certificate gets a context of its own, because a context that is in use must not be changed, and because
    one that is refused half-way would be left without a certificate. It is logged once, and the previous one stays in
    use.

    Args:
        files: The files of the certificate.
        metrics: Exposes when the certificate expires.

    Raises:
        CertificateUnusable: The files cannot be used.
    """

    def __init__(self, files: CertificateFiles, metrics: Metrics) -> None:
        self._files = files
        self._metrics = metrics
        self._stamp = files.stamp()
        self._newest = files.context()
        # The server listens with this context. It hands each connection over to the newest one when the client's first
        # message arrives.
        self.context = files.context()
        self.context.sni_callback = self._use_newest
        self._report(files.examine())

    def check(self) -> None:
        """Load the certificate again if its files have changed since the last check."""
        stamp = self._files.stamp()
        # Tools write certificate and key one after the other; a missing file is the moment in between.
        if not stamp or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            newest, facts = self._files.context(), self._files.examine()
        except CertificateUnusable as error:
            log.error("changed certificate not used", reason=error.reason, remedy=error.remedy)
            return
        self._newest = newest
        self._report(facts)

    def _use_newest(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest

    def _report(self, facts: CertificateFacts) -> None:
        self._metrics.certificate_expiry.set(facts.not_after.timestamp())
        log.info("certificate loaded", names=list(facts.names), expires=facts.not_after.isoformat())
        if days_left(facts) < EXPIRY_WARNING_DAYS:
            log.warning("certificate expires soon", days=round(days_left(facts), 1))


def days_left(facts: CertificateFacts) -> float:
    """Return the days until a certificate expires; negative if it has expired."""
    return (facts.not_after - datetime.now(UTC)).total_seconds() / 86_400


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnusable(
            f"The {what} {path} cannot be read ({error.strerror}).",
            "Check the path and its permissions for the user of the service.",
        ) from error


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return  # clients ignore the common name
    for name in extension.value.get_values_for_type(x509.DNSName):
        yield name.lower()
    for address in extension.value.get_values_for_type(x509.IPAddress):
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
            yield str(address)


def _public_bytes(key: object) -> bytes:
    encode = getattr(key, "public_bytes")  # noqa: B009 - the union of key types declares no common base
    data: bytes = encode(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data


def _refuse_password() -> str:
    # Without this, OpenSSL would ask on the terminal, and the service would wait for ever.
    raise ValueError("encrypted")
