"""Who may use the OPC UA server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from asyncua import Client, ua

from service.access.throttle import PER_CLIENT
from service.errors import CannotStart
from service.integrations.opcua import guard
from service.integrations.opcua.guard import Users
from service.integrations.opcua.options import parse_endpoint, read_options
from service.settings import Settings
from tests.certificates import make_certificate
from tests.service.integrations.opcua_server import (
    RunningOpcua,
    TestIdentity,
    call,
    completed,
    make_identity,
    run_opcua,
    status,
    until,
    value,
    with_client,
)

PASSWORD = "correct horse"
LOGIN: dict[str, Any] = {"opcua_user": "plc", "opcua_password": PASSWORD}


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TestIdentity]:
    folder = tmp_path_factory.mktemp("identities")
    return {name: make_identity(folder, name) for name in ("server", "plc", "stranger")}


@pytest.fixture(scope="module")
def secure_server(
    identities: dict[str, TestIdentity], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningOpcua]:
    """A server that accepts one user with one certificate."""
    trusted = tmp_path_factory.mktemp("trusted")
    (trusted / "plc.pem").write_bytes(identities["plc"].certificate.read_bytes())
    server = identities["server"]
    files: dict[str, Any] = {"opcua_certificate": server.certificate, "opcua_key": server.key, "opcua_trusted": trusted}
    with run_opcua(**files, **LOGIN) as running:
        yield running


@pytest.fixture(scope="module")
def login_server() -> Iterator[RunningOpcua]:
    """A server without encryption that accepts one user, on the loopback interface."""
    with run_opcua(**LOGIN) as running:
        yield running


async def read(client: Client) -> Any:
    return await client.get_node("ns=2;s=Plumbline.Ready").read_value()


def test_a_trusted_client_with_the_right_password_is_served(
    secure_server: RunningOpcua, identities: dict[str, TestIdentity]
) -> None:
    async def work(client: Client) -> None:
        assert await read(client) is True
        assert await value(client, "Sequence") == 0

    options = {"user": "plc", "password": PASSWORD, "identity": identities["plc"], "server": identities["server"]}
    with_client(secure_server.url, work, **options)


@pytest.mark.parametrize(
    ("name", "user", "password"),
    [("plc", "plc", "wrong"), ("plc", "other", PASSWORD), ("plc", "plc", ""), ("stranger", "plc", PASSWORD)],
)
def test_a_wrong_user_password_or_certificate_is_refused(
    secure_server: RunningOpcua, identities: dict[str, TestIdentity], name: str, user: str, password: str
) -> None:
    before = secure_server.sample("refused_logins_total") or 0
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        with_client(
            secure_server.url,
            read,
            user=user,
            password=password,
            identity=identities[name],
            server=identities["server"],
        )
    assert secure_server.sample("refused_logins_total") == before + 1


def test_a_client_without_a_login_is_refused(secure_server: RunningOpcua, identities: dict[str, TestIdentity]) -> None:
    with pytest.raises(ua.UaError):
        with_client(secure_server.url, read, identity=identities["plc"], server=identities["server"])


def test_only_secure_endpoints_are_offered(secure_server: RunningOpcua) -> None:
    endpoints = asyncio.run(Client(secure_server.url).connect_and_get_server_endpoints())
    assert {endpoint.SecurityMode for endpoint in endpoints} == {
        ua.MessageSecurityMode.Sign,
        ua.MessageSecurityMode.SignAndEncrypt,
    }


def test_an_unencrypted_channel_creates_no_session(secure_server: RunningOpcua) -> None:
    """The library accepts such a channel, although no endpoint without security is offered."""

    async def run() -> None:
        client = Client(secure_server.url)
        await client.connect_socket()
        try:
            await client.send_hello()
            await client.open_secure_channel()
            with pytest.raises(ua.uaerrors.BadSecurityPolicyRejected):
                await client.create_session()
            with pytest.raises(ua.UaError):
                await read(client)
        finally:
            client.disconnect_socket()

    asyncio.run(run())


def test_attempts_to_log_in_are_limited_and_a_success_takes_those_before_back() -> None:
    def log_in(running: RunningOpcua, password: str, user: str = "plc") -> Any:
        return with_client(running.url, read, user=user, password=password)

    with run_opcua(**LOGIN, login_attempts=2, login_window_s=60) as running:
        for _ in range(3):
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                log_in(running, "wrong")
            assert log_in(running, PASSWORD) is True
        for _ in range(2):
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                log_in(running, "wrong")
        for password in ("wrong", PASSWORD):
            with pytest.raises(ua.uaerrors.BadTooManyOperations):
                log_in(running, password)
        assert running.sample("refused_logins_total") == 3 + 2 + 2


def test_attempts_with_other_names_are_limited_per_client() -> None:
    with run_opcua(**LOGIN, login_attempts=1) as running:
        for number in range(PER_CLIENT):
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                with_client(running.url, read, user=f"user-{number}", password="wrong")
        with pytest.raises(ua.uaerrors.BadTooManyOperations):
            with_client(running.url, read, user="another", password="wrong")


def test_attempts_of_one_client_do_not_lock_out_another() -> None:
    options = read_options(Settings(opcua_endpoint="opc.tcp://127.0.0.1:0", **LOGIN, login_attempts=2))
    assert options is not None
    users = Users(options, lambda: None)

    def log_in(client: str, password: str) -> bool:
        token = guard._CLIENT.set(client)
        try:
            return users.get_user(Mock(), "plc", password) is not None
        finally:
            guard._CLIENT.reset(token)

    assert [log_in("10.0.0.1", "wrong") for _ in range(2)] == [False, False]
    with pytest.raises(ua.uaerrors.BadTooManyOperations):
        log_in("10.0.0.1", PASSWORD)
    assert log_in("10.0.0.2", PASSWORD) is True


def test_the_wrong_password_is_refused_without_encryption(login_server: RunningOpcua) -> None:
    assert with_client(login_server.url, read, user="plc", password=PASSWORD) is True
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        with_client(login_server.url, read, user="plc", password="wrong")


def test_a_session_that_is_not_activated_reads_nothing(login_server: RunningOpcua) -> None:
    async def run() -> None:
        client = Client(login_server.url)
        await client.connect_socket()
        try:
            await client.send_hello()
            await client.open_secure_channel()
            await client.create_session()
            with pytest.raises(ua.uaerrors.BadSessionNotActivated):
                await read(client)
        finally:
            client.disconnect_socket()

    asyncio.run(run())


def test_a_failed_login_does_not_take_over_the_session_of_another_client(login_server: RunningOpcua) -> None:
    async def work(victim: Client) -> None:
        attacker = Client(login_server.url)
        attacker.set_user("plc")
        attacker.set_password("wrong")
        await attacker.connect_socket()
        try:
            await attacker.send_hello()
            await attacker.open_secure_channel()
            # Tokens are small consecutive numbers.
            token = victim.uaclient.session.authentication_token
            attacker.uaclient.session.authentication_token = token
            attacker._server_nonce = b"0" * 32  # type: ignore[assignment]  # declared as None
            with pytest.raises(ua.UaError):
                await attacker.activate_session(username="plc", password="wrong")
            with pytest.raises(ua.UaError):
                await read(attacker)
        finally:
            attacker.disconnect_socket()
        assert await read(victim) is True

    with_client(login_server.url, work, user="plc", password=PASSWORD)


def options_of(**settings: Any) -> Any:
    return read_options(Settings(**({"opcua_endpoint": "opc.tcp://0.0.0.0:4840"} | settings)))


def test_other_machines_need_encryption_and_a_login(identities: dict[str, TestIdentity], tmp_path: Path) -> None:
    server = identities["server"]
    files = {"opcua_certificate": server.certificate, "opcua_key": server.key}
    with pytest.raises(CannotStart, match="no certificate"):
        options_of()
    with pytest.raises(CannotStart, match="no certificate"):
        options_of(**LOGIN)
    with pytest.raises(CannotStart, match="neither a user nor trusted client certificates"):
        options_of(**files)
    (tmp_path / "plc.pem").write_bytes(identities["plc"].certificate.read_bytes())
    assert options_of(**files, opcua_trusted=tmp_path).trusted is not None
    assert options_of(**files, **LOGIN).application_uri == "urn:test:server"
    assert options_of(opcua_insecure=True).identity is None
    assert options_of(opcua_endpoint="opc.tcp://127.0.0.1:4840").identity is None
    assert options_of(opcua_endpoint="opc.tcp://[::1]").port == 4840
    assert options_of(opcua_endpoint="") is None


def test_unusable_options_are_refused(identities: dict[str, TestIdentity], tmp_path: Path) -> None:
    server, plc = identities["server"], identities["plc"]
    elliptic, missing = make_certificate(), tmp_path / "missing"
    (tmp_path / "ec.pem").write_bytes(elliptic.certificate)
    (tmp_path / "ec.key").write_bytes(elliptic.key)
    (tmp_path / "encrypted.key").write_bytes(elliptic.encrypted_key)
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "empty").mkdir()
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "plc.pem").write_bytes(plc.certificate.read_bytes())
    local = {"opcua_endpoint": "opc.tcp://127.0.0.1:4840"}
    certificate = {"opcua_certificate": server.certificate}
    for settings, message in (
        (certificate, "only one of certificate and key"),
        ({"opcua_key": server.key}, "only one of certificate and key"),
        (certificate | {"opcua_key": plc.key}, "is not the key of the certificate"),
        (certificate | {"opcua_key": missing}, "cannot be read"),
        (certificate | {"opcua_key": tmp_path / "encrypted.key"}, "or it is encrypted"),
        ({"opcua_certificate": tmp_path / "ec.pem", "opcua_key": tmp_path / "ec.key"}, "not an RSA key"),
        ({"opcua_certificate": tmp_path / "text.pem", "opcua_key": server.key}, "is not a certificate"),
        ({"opcua_trusted": missing}, "cannot be read"),
        ({"opcua_trusted": tmp_path / "empty"}, "has 0 certificates"),
        ({"opcua_trusted": tmp_path / "trusted"}, "the server has no certificate"),
        ({"opcua_user": "plc"}, "only one of user and password"),
        ({"opcua_password": "secret"}, "only one of user and password"),
        ({"opcua_user": "plc", "opcua_password_file": missing}, "cannot be read"),
        ({"opcua_stations": "A,B", "opcua_max_stations": 1}, "has 2 stations"),
    ):
        with pytest.raises(CannotStart, match=message):
            options_of(**local, **settings)


def test_the_password_can_be_in_a_file_and_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    options = options_of(opcua_endpoint="opc.tcp://127.0.0.1", opcua_user="plc", opcua_password_file=path)
    assert options.password == PASSWORD
    assert PASSWORD not in repr(options)
    assert PASSWORD not in repr(Settings(**LOGIN))


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:4840", "http://127.0.0.1", "opc.tcp://", "opc.tcp://a:b@127.0.0.1", "opc.tcp://[::1", "opc.tcp://x:y"],
)
def test_unusable_endpoints_are_refused(url: str) -> None:
    with pytest.raises(CannotStart, match="not the URL of an OPC UA endpoint"):
        parse_endpoint(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CannotStart, match=r"pip install ./client '\.\[opcua\]'"):
        options_of()


def test_a_station_that_is_named_like_a_variable_takes_no_node_of_another() -> None:
    async def work(client: Client) -> None:
        names = {"C.Pass": "C%2EPass", "C.Trigger": "C%2ETrigger", "C%2EPass": "C%252EPass", "C": "C"}
        names |= {"C.DecisionCode.EnumStrings": "C.DecisionCode%2EEnumStrings", "C.1": "C.1"}
        for station in names:
            running.opcua.board.publish(completed(station=station, part_id=station))

        async def are_there() -> bool:
            found = await client.get_node("ns=2;s=Plumbline.Stations").get_children()
            return len(found) == 1 + len(names)

        await until(are_there)
        for station, identifier in names.items():

            async def is_there(identifier: str = identifier) -> bool:
                return await status(client, "ResultReady", identifier) == "Good"

            await until(is_there)
            assert await value(client, "PartId", identifier) == station
        assert await call(client, "Trigger", "", "", station="C") == 1

    with run_opcua() as running:
        with_client(running.url, work)
