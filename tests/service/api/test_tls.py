"""HTTPS: certificate and key from the settings, reload, examination."""

from __future__ import annotations

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs
from websockets.sync.client import connect

from plumbline_client import Client
from service.api.http.certificates import CertificateFiles, CertificateReloader, CertificateUnusable
from service.cli.findings import Finding, Health
from service.cli.network_checks import check_certificate
from service.monitoring.metrics import Metrics
from service.settings import Settings
from tests.certificates import TestCertificate, make_certificate
from tests.running_service import GOOD, RunningService, Serve


@pytest.fixture(scope="module")
def certificate() -> TestCertificate:
    return make_certificate()


def served_certificate(service: RunningService) -> str:
    """Return the certificate that the service presents to a new connection."""
    return ssl.get_server_certificate(("127.0.0.1", service.port))


def test_service_speaks_https_only(serve: Serve, certificate: TestCertificate, tmp_path: Path) -> None:
    with serve(**certificate.write(tmp_path), ca=certificate.trust()) as service:
        assert service.inspect().status_code == 201
        assert "inspection_tls_certificate_expiry_timestamp_seconds 1" in service.client.get("/metrics").text
        with service.connect() as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                answer = plain.recv(1000)
            except ConnectionError:
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 200")
        url = f"wss://127.0.0.1:{service.port}/v1/products/widget/stream"
        with connect(url, ssl=certificate.trust()) as stream:
            stream.send('{"type": "hello"}')
            assert '"ready"' in str(stream.recv(timeout=20))
            stream.send(GOOD)
            assert '"decision"' in str(stream.recv(timeout=20))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(certificate: TestCertificate, tmp_path: Path, version: ssl.TLSVersion) -> None:
    files = certificate.write(tmp_path)
    context = CertificateFiles(files["tls_certificate"], files["tls_key"]).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert version < context.minimum_version


def test_client_takes_the_ca_file_from_the_environment(
    serve: Serve, certificate: TestCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate.write(tmp_path)
    with serve(**files, ca=certificate.trust()) as service:
        url = f"https://127.0.0.1:{service.port}"
        with Client(url, verify=files["tls_certificate"]) as client:
            assert client.inspect("widget", GOOD).decision == "pass"
        monkeypatch.setenv("PLUMBLINE_CA_FILE", str(files["tls_certificate"]))
        with Client(url) as client:
            assert client.inspect("widget", GOOD).decision == "pass"


def test_changed_certificate_is_used_without_a_restart(
    serve: Serve, certificate: TestCertificate, tmp_path: Path
) -> None:
    with serve(**certificate.write(tmp_path), ca=certificate.trust()) as service:
        assert served_certificate(service).strip() == certificate.certificate.decode().strip()
        opened = certificate.trust().wrap_socket(service.connect(), server_hostname="localhost")
        renewed = make_certificate(days=700)
        renewed.write(tmp_path)
        deadline = time.monotonic() + 20
        while served_certificate(service).strip() != renewed.certificate.decode().strip():
            assert time.monotonic() < deadline, "the changed certificate is not used"
            time.sleep(0.1)
        # A connection that is open already keeps working.
        with opened:
            opened.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert opened.recv(1000).startswith(b"HTTP/1.1 200")


def test_changed_certificate_that_is_unusable_is_not_used(certificate: TestCertificate, tmp_path: Path) -> None:
    paths = certificate.write(tmp_path)
    files = CertificateFiles(paths["tls_certificate"], paths["tls_key"])
    reloader = CertificateReloader(files, Metrics())
    other = make_certificate()
    paths["tls_key"].unlink()
    with capture_logs() as logs:
        reloader.check()  # the moment between the two files of a renewal
        paths["tls_key"].write_bytes(other.key)
        reloader.check()
        reloader.check()
    assert [entry["event"] for entry in logs] == ["changed certificate not used"]
    assert "does not belong" in logs[0]["reason"]
    paths["tls_certificate"].write_bytes(other.certificate)
    with capture_logs() as logs:
        reloader.check()
    assert [entry["event"] for entry in logs] == ["certificate loaded"]


def test_certificate_that_openssl_refuses_half_way_leaves_the_old_one_in_use(
    serve: Serve, certificate: TestCertificate, tmp_path: Path
) -> None:
    """The leaf is right, but an intermediate certificate is too weak: OpenSSL refuses it after it took the leaf."""
    weak = weak_certificate()
    paths = certificate.write(tmp_path)
    with serve(**paths, ca=certificate.trust()) as service:
        renewed = make_certificate()
        paths["tls_key"].write_bytes(renewed.key)
        paths["tls_certificate"].write_bytes(renewed.certificate + weak)
        with pytest.raises(CertificateUnusable, match="cannot be used"):
            CertificateFiles(paths["tls_certificate"], paths["tls_key"]).context()
        assert service.server._reloader is not None
        service.server._reloader.check()
        assert served_certificate(service).strip() == certificate.certificate.decode().strip()


def weak_certificate() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def write_files(folder: Path, case: str, certificate: TestCertificate) -> CertificateFiles:
    paths = certificate.write(folder)
    files = CertificateFiles(paths["tls_certificate"], paths["tls_key"])
    match case:
        case "missing certificate":
            files.certificate.unlink()
        case "missing key":
            files.key.unlink()
        case "no certificate":
            files.certificate.write_text("hello")
        case "no key":
            files.key.write_bytes(certificate.certificate)
        case "key of another certificate":
            files.key.write_bytes(make_certificate().key)
        case "encrypted key":
            files.key.write_bytes(certificate.encrypted_key)
        case "intermediate first":
            files.certificate.write_bytes(make_certificate().certificate + certificate.certificate)
    return files


WRONG_FILES = {
    "missing certificate": "cannot be read",
    "missing key": "cannot be read",
    "no certificate": "contains no PEM certificate",
    "no key": "contains no PEM private key",
    "key of another certificate": "does not belong",
    "encrypted key": "is encrypted",
    "intermediate first": "does not belong",
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_unusable_files_are_explained(certificate: TestCertificate, tmp_path: Path, case: str) -> None:
    files = write_files(tmp_path, case, certificate)
    with pytest.raises(CertificateUnusable, match=WRONG_FILES[case]) as caught:
        files.context()
    assert str(tmp_path) in caught.value.reason
    assert caught.value.remedy


def findings(folder: Path, made: TestCertificate, **settings: str) -> list[Finding]:
    paths = made.write(folder)
    return list(check_certificate(Settings(**paths, **settings)))  # type: ignore[arg-type]


def test_doctor_examines_the_certificate(
    certificate: TestCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "line-pc")
    monkeypatch.setattr(socket, "getfqdn", lambda: "line-pc.plant.example")
    assert list(check_certificate(Settings())) == []
    (good,) = findings(tmp_path, certificate)
    assert (good.health, "localhost" in good.detail) == (Health.OK, True)
    (expired,) = findings(tmp_path, make_certificate(days=-2))
    assert (expired.health, "expired" in expired.detail) == (Health.PROBLEM, True)
    (soon,) = findings(tmp_path, make_certificate(days=5.5))
    assert (soon.health, soon.detail) == (Health.WARNING, "expires in 5 days")
    (early,) = findings(tmp_path, make_certificate(from_days=3))
    assert (early.health, "not valid before" in early.detail) == (Health.PROBLEM, True)
    other = findings(tmp_path, certificate, host="0.0.0.0")  # noqa: S104
    assert other[-1].health == Health.WARNING
    assert "not for the name of this machine" in other[-1].detail
    assert len(findings(tmp_path, make_certificate(names=("line-pc",)), host="0.0.0.0")) == 1  # noqa: S104
    wildcard = make_certificate(names=("*.example",))
    assert len(findings(tmp_path, wildcard, host="0.0.0.0", allowed_hosts="a.example")) == 1  # noqa: S104
    paths = certificate.write(tmp_path)
    paths["tls_key"].chmod(0o644)
    shown = list(check_certificate(Settings(**paths)))  # type: ignore[arg-type]
    assert "may read the private key" in shown[-1].detail
    paths["tls_key"].unlink()
    (missing,) = check_certificate(Settings(**paths))  # type: ignore[arg-type]
    assert missing.health == Health.PROBLEM


def test_key_without_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="HTTPS needs both"):
        Settings(tls_key=tmp_path / "server.key")


def test_doctor_warns_of_names_that_clients_or_the_service_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "line-pc")
    monkeypatch.setattr(socket, "getfqdn", lambda: "line-pc.plant.example")
    _, nameless = findings(tmp_path, make_certificate(has_names=False))
    assert (nameless.health, "subjectAltName" in nameless.detail) == (Health.WARNING, True)
    both = make_certificate(names=("line-pc", "vision.plant.example"))
    _, refused = findings(tmp_path, both)
    assert refused.health is Health.WARNING
    assert "vision.plant.example" in refused.detail
    assert refused.remedy == "Set PLUMBLINE_ALLOWED_HOSTS=vision.plant.example."
    assert len(findings(tmp_path, both, allowed_hosts="vision.plant.example")) == 1
