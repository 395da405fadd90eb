"""An OPC UA server without the rest of the service, and certificates for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

from asyncua import Client, ua
from asyncua.common.node import Node
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry

from service.integrations.opcua.start import Opcua
from service.integrations.opcua.state import ServiceState
from service.settings import Settings
from service.store.completed import Completed

ResultT = TypeVar("ResultT")
READY = ServiceState(True, True, frozenset({"widget"}))


def completed(station: str | None = "A", **changes: Any) -> Completed:
    """Return a stored inspection; `record` is as complete as OPC UA needs it."""
    now = time.perf_counter()
    times: dict[str, Any] = {name: changes.pop(name) for name in ("arrived", "submitted") if name in changes}
    values: dict[str, Any] = {
        "id": "01a223d3-8eaa-7148-959b-30695e0921ec",
        "created_at": datetime.now(UTC),
        "product": "widget",
        "part_id": None,
        "decision": "pass",
        "score": 0.5,
        "p_value": 0.25,
        "review_threshold": 1.0,
        "fail_threshold": 2.0,
    }
    record = Mock(station=station, **(values | changes))
    return Completed(
        record, **({"arrived": None, "submitted": now} | times), duration_s=0.01, timings_s={}, stored_ns=0
    )


@dataclass
class RunningOpcua:
    """A running server."""

    opcua: Opcua
    registry: CollectorRegistry
    states: list[ServiceState] = field(default_factory=lambda: [READY])

    @property
    def url(self) -> str:
        assert self.opcua.server is not None
        return f"opc.tcp://127.0.0.1:{self.opcua.server.port}"

    def sample(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"inspection_opcua_{name}")


@contextmanager
def run_opcua(state: ServiceState = READY, **settings: Any) -> Iterator[RunningOpcua]:
    """Run a server until the end of the block."""
    registry = CollectorRegistry()
    opcua = Opcua(Settings(**({"opcua_endpoint": "opc.tcp://127.0.0.1:0", "opcua_stations": "A"} | settings)), registry)
    running = RunningOpcua(opcua, registry, [state])
    opcua.start(lambda: running.states[-1])
    try:
        yield running
    finally:
        opcua.close()


def with_client(url: str, work: Callable[[Client], Awaitable[ResultT]], **options: Any) -> ResultT:
    """Connect a client, do some work with it, and disconnect it."""

    async def run() -> ResultT:
        client = Client(url, timeout=10)
        if "user" in options:
            client.set_user(options["user"])
            client.set_password(options["password"])
        if "identity" in options:
            await secure(client, options["identity"], options["server"])
        async with client:
            return await work(client)

    return asyncio.run(run())


async def secure(client: Client, identity: TestIdentity, server: TestIdentity) -> None:
    """Make a client use a secure channel."""
    from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

    client.application_uri = identity.uri
    await client.set_security(
        SecurityPolicyBasic256Sha256,
        certificate=str(identity.certificate),
        private_key=str(identity.key),
        server_certificate=str(server.certificate),
        mode=ua.MessageSecurityMode.SignAndEncrypt,
    )


def variable(client: Client, name: str, station: str = "A") -> Node:
    """Return the node of a variable of a station."""
    return client.get_node(f"ns=2;s=Plumbline.Stations.{station}.{name}")


async def value(client: Client, name: str, station: str = "A") -> Any:
    """Return the value of a variable of a station."""
    return await variable(client, name, station).read_value()


async def status(client: Client, name: str, station: str = "A") -> str:
    """Return the name of the status code of a variable of a station."""
    data = await variable(client, name, station).read_data_value(raise_on_bad_status=False)
    assert data.StatusCode is not None
    return str(data.StatusCode.name)


async def call(client: Client, method: str, *arguments: Any, station: str = "A") -> Any:
    """Call a method of a station."""
    return await client.get_node(f"ns=2;s=Plumbline.Stations.{station}").call_method(f"2:{method}", *arguments)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - the server does not signal it
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class TestIdentity:
    """A self-signed RSA certificate and its key, in files."""

    __test__ = False

    certificate: Path
    key: Path
    uri: str


def make_identity(folder: Path, name: str, days: float = 30) -> TestIdentity:
    """Make a certificate with an application URI."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    uri = f"urn:test:{name}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName("localhost")]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    identity = TestIdentity(folder / f"{name}.pem", folder / f"{name}.key.pem", uri)
    identity.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    identity.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return identity
