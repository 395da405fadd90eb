"""TLS certificates made for a test."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class TestCertificate:
    """A self-signed certificate and its key, in PEM format."""

    __test__ = False

    certificate: bytes
    key: bytes
    encrypted_key: bytes

    def trust(self) -> ssl.SSLContext:
        """Return the context of a client that accepts this certificate only."""
        return ssl.create_default_context(cadata=self.certificate.decode())

    def write(self, folder: Path) -> dict[str, Path]:
        """Write both files and return the settings that name them."""
        files = {"tls_certificate": folder / "server.crt", "tls_key": folder / "server.key"}
        files["tls_certificate"].write_bytes(self.certificate)
        files["tls_key"].write_bytes(self.key)
        files["tls_key"].chmod(0o600)
        return files


def make_certificate(
    *, days: float = 365, from_days: float = -1, names: tuple[str, ...] = ("localhost",), has_names: bool = True
) -> TestCertificate:
    """Make a certificate for 127.0.0.1 and the given names.

    Args:
        days: Days until it expires.
        from_days: Days until it becomes valid.
        names: Host names.
        has_names: Whether it has subject alternative names at all.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plumbline-test")])
    alternatives: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    alternatives += [x509.DNSName(name) for name in names]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=min(from_days, days - 1)))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if has_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return TestCertificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
    )
