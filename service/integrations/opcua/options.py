"""Options of the OPC UA server, read and checked when the service starts. No OPC UA library is needed for it."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_pem_private_key,
)

from service.errors import CannotStart
from service.host_names import is_loopback
from service.settings import Settings

DEFAULT_PORT = 4840
_MAX_FILE_BYTES = 256 * 1024
_MAX_TRUSTED = 1000
_MIN_KEY_BITS = 2048
_SCHEME = "opc.tcp"


@dataclass(frozen=True)
class Identity:
    """Certificate and private key of the server.

    Attributes:
        certificate: The certificate.
        key: Its private key.
    """

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)

    @property
    def application_uri(self) -> str | None:
        """Return the application URI in the certificate, which clients compare with that of the server."""
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return None
        return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)


@dataclass(frozen=True)
class OpcuaOptions:
    """Options of the OPC UA server.

    Attributes:
        endpoint: URL of the endpoint.
        host: Host to listen on.
        port: TCP port; 0 for a free one.
        stations: Stations that exist from the start, sorted.
        max_stations: Most stations.
        max_clients: Most connections.
        identity: Certificate and key; None for connections without security.
        user: Name that clients log in with; empty if they do not.
        password: The password of the user.
        trusted: Client certificates (DER) that may connect; None for all.
        login_attempts: Most attempts of one client to log in within the window.
        login_window_s: Length of the window in seconds.
    """

    endpoint: str
    host: str
    port: int
    stations: tuple[str, ...]
    max_stations: int
    max_clients: int
    identity: Identity | None
    user: str
    password: str = field(repr=False)
    trusted: frozenset[bytes] | None
    login_attempts: int
    login_window_s: float

    @property
    def application_uri(self) -> str:
        """Return the URI that names this server; clients require that its certificate contains the same one."""
        stated = None if self.identity is None else self.identity.application_uri
        return stated or f"urn:{socket.gethostname()}:plumbline"


def read_options(settings: Settings) -> OpcuaOptions | None:
    """Return the options of the OPC UA server; None if it is not configured.

    Raises:
        CannotStart: The package is not installed, a file cannot be used, or the endpoint would not be secure.
    """
    if not settings.opcua_endpoint:
        return None
    if importlib.util.find_spec("asyncua") is None:
        raise CannotStart(
            "PLUMBLINE_OPCUA_ENDPOINT is set, but OPC UA is not installed",
            "pip install ./client '.[opcua]' in a checkout of Plumbline",
        )
    host, port = parse_endpoint(settings.opcua_endpoint)
    identity = _read_identity(settings.opcua_certificate, settings.opcua_key)
    trusted = None if settings.opcua_trusted is None else _read_trusted(settings.opcua_trusted)
    password = _read_password(settings)
    if trusted is not None and identity is None:
        raise CannotStart(
            "client certificates are only verified on secure connections, and the server has no certificate",
            "Set PLUMBLINE_OPCUA_CERTIFICATE and PLUMBLINE_OPCUA_KEY.",
        )
    has_clients = bool(settings.opcua_user) or trusted is not None
    if not is_loopback(host) and not settings.opcua_insecure and (identity is None or not has_clients):
        raise CannotStart(
            f"other machines reach {settings.opcua_endpoint}, but it has "
            + ("no certificate" if identity is None else "neither a user nor trusted client certificates"),
            "Set PLUMBLINE_OPCUA_CERTIFICATE, PLUMBLINE_OPCUA_KEY, and PLUMBLINE_OPCUA_USER with a password or "
            "PLUMBLINE_OPCUA_TRUSTED; or listen on 127.0.0.1; or set PLUMBLINE_OPCUA_INSECURE=1.",
        )
    if len(settings.opcua_stations) > settings.opcua_max_stations:
        raise CannotStart(
            f"PLUMBLINE_OPCUA_STATIONS has {len(settings.opcua_stations)} stations, more than "
            f"PLUMBLINE_OPCUA_MAX_STATIONS ({settings.opcua_max_stations})",
            "Raise PLUMBLINE_OPCUA_MAX_STATIONS.",
        )
    return OpcuaOptions(
        endpoint=settings.opcua_endpoint,
        host=host,
        port=port,
        stations=tuple(sorted(settings.opcua_stations)),
        max_stations=settings.opcua_max_stations,
        max_clients=settings.opcua_max_clients,
        identity=identity,
        user=settings.opcua_user,
        password=password,
        trusted=trusted,
        login_attempts=settings.login_attempts,
        login_window_s=settings.login_window_s,
    )


def parse_endpoint(url: str) -> tuple[str, int]:
    """Return host and port of an endpoint.

    Raises:
        CannotStart: It is not the URL of an endpoint.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if parts.scheme != _SCHEME or not host or parts.username is not None or parts.query or parts.fragment:
        raise CannotStart(
            f"PLUMBLINE_OPCUA_ENDPOINT is {url!r}, which is not the URL of an OPC UA endpoint",
            "Give scheme, host and port, such as opc.tcp://127.0.0.1:4840.",
        )
    return host, port


def check_port(options: OpcuaOptions) -> None:
    """Check that the port of the endpoint is free.

    Raises:
        CannotStart: It cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise port_unusable(options, error) from error


def port_unusable(options: OpcuaOptions, error: OSError) -> CannotStart:
    """Return the error for a port that cannot be opened."""
    return CannotStart(
        f"the OPC UA endpoint {options.endpoint} cannot be opened ({error.strerror})",
        "Stop the process that listens on the port, or set another PLUMBLINE_OPCUA_ENDPOINT.",
    )


def _read_identity(certificate: Path | None, key: Path | None) -> Identity | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "PLUMBLINE_OPCUA_KEY" if key is None else "PLUMBLINE_OPCUA_CERTIFICATE"
        raise CannotStart("the OPC UA server has only one of certificate and key", f"Set {missing}, too.")
    parsed = _parse_certificate(certificate)
    data = _read(key)
    try:
        load = load_pem_private_key if data.lstrip().startswith(b"-----") else load_der_private_key
        private = load(data, None)
    except (ValueError, TypeError) as error:
        raise CannotStart(
            f"{key} is not a private key in PEM or DER format, or it is encrypted",
            "Write the key without a password, readable for the user of the service only.",
        ) from error
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < _MIN_KEY_BITS:
        raise CannotStart(
            f"{key} is not an RSA key of at least {_MIN_KEY_BITS} bits, which OPC UA requires",
            "Make a certificate with an RSA key of 2048 to 4096 bits.",
        )
    if private.public_key() != parsed.public_key():
        raise CannotStart(f"{key} is not the key of the certificate {certificate}", "Name files that belong together.")
    return Identity(parsed, private)


def _read_trusted(folder: Path) -> frozenset[bytes]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".pem", ".der", ".crt", ".cer"})
    except OSError as error:
        raise CannotStart(
            f"{folder} cannot be read ({error.strerror})", "Set PLUMBLINE_OPCUA_TRUSTED to a folder of certificates."
        ) from error
    if not files or len(files) > _MAX_TRUSTED:
        raise CannotStart(
            f"{folder} has {len(files)} certificates (.pem, .der, .crt, .cer), expected 1 to {_MAX_TRUSTED}",
            "Copy the certificates of the OPC UA clients to it.",
        )
    return frozenset(_parse_certificate(path).public_bytes(Encoding.DER) for path in files)


def _parse_certificate(path: Path) -> x509.Certificate:
    data = _read(path)
    try:
        if data.lstrip().startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise CannotStart(
            f"{path} is not a certificate in PEM or DER format", "Export the certificate again."
        ) from error


def _read_password(settings: Settings) -> str:
    password = settings.opcua_password.get_secret_value()
    if settings.opcua_password_file is not None:
        try:
            password = _read(settings.opcua_password_file).decode().strip()
        except UnicodeDecodeError as error:
            raise CannotStart(
                f"{settings.opcua_password_file} is not UTF-8 text", "Write the password to it."
            ) from error
    if bool(password) != bool(settings.opcua_user):
        missing = "PLUMBLINE_OPCUA_USER" if password else "PLUMBLINE_OPCUA_PASSWORD or PLUMBLINE_OPCUA_PASSWORD_FILE"
        raise CannotStart("the OPC UA server has only one of user and password", f"Set {missing}, too.")
    return password


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise CannotStart(
            f"{path} cannot be read ({error.strerror})", "Check the path and the permissions of the file."
        ) from error
