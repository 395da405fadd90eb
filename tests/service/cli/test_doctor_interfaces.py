"""The checks of `plumbline doctor` for OPC UA and OpenTelemetry."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from service.cli.findings import Finding, Health
from service.cli.interface_checks import check_opcua, check_otel
from service.settings import Settings
from service.store.lock import LOCK_NAME, FileLock
from tests.service.integrations.opcua_server import make_identity


def opcua(**settings: Any) -> list[Finding]:
    return list(check_opcua(Settings(**({"opcua_endpoint": "opc.tcp://127.0.0.1:0"} | settings))))


def otel(url: str) -> list[Finding]:
    return list(check_otel(Settings(otel_endpoint=url)))


def test_nothing_is_checked_that_is_not_configured() -> None:
    assert opcua(opcua_endpoint="") == otel("") == []


def test_a_port_in_use_is_a_problem() -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        endpoint = f"opc.tcp://127.0.0.1:{used.getsockname()[1]}"
        (finding,) = opcua(opcua_endpoint=endpoint)
    assert finding.health is Health.PROBLEM
    assert "cannot be opened" in finding.detail
    (finding,) = opcua(opcua_endpoint=endpoint)
    assert finding.health is Health.OK


def test_a_port_that_the_service_of_the_data_folder_uses_is_no_problem(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / LOCK_NAME, "the data folder")
    with socket.create_server(("127.0.0.1", 0)) as used:
        endpoint = f"opc.tcp://127.0.0.1:{used.getsockname()[1]}"
        (finding,) = opcua(opcua_endpoint=endpoint, data=tmp_path)
    lock.release()
    assert finding.health is Health.OK
    assert "pid" in finding.detail


def test_the_certificate_of_opc_ua_is_examined(tmp_path: Path) -> None:
    identity = make_identity(tmp_path, "server")
    _, certificate = opcua(opcua_certificate=identity.certificate, opcua_key=identity.key)
    assert certificate.health is Health.OK
    assert certificate.detail.startswith("the certificate is valid until ")
    for days, health in ((5, Health.WARNING), (-0.5, Health.PROBLEM)):
        identity = make_identity(tmp_path, "server", days)
        _, certificate = opcua(opcua_certificate=identity.certificate, opcua_key=identity.key)
        assert certificate.health is health
        assert certificate.remedy
    (missing,) = opcua(opcua_certificate=tmp_path / "missing.pem", opcua_key=identity.key)
    assert missing.health is Health.PROBLEM
    assert missing.remedy


def test_an_insecure_endpoint_is_a_warning() -> None:
    _, finding = opcua(opcua_endpoint="opc.tcp://0.0.0.0:0", opcua_insecure=True)
    assert finding.health is Health.WARNING
    (refused,) = opcua(opcua_endpoint="opc.tcp://0.0.0.0:0")
    assert refused.health is Health.PROBLEM


def test_a_collector_that_is_not_reachable_is_a_warning() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert {finding.health for finding in otel(url)} == {Health.WARNING}
        listener.listen()
        assert [finding.health for finding in otel(url)] == [Health.OK, Health.OK]
    (finding,) = otel("collector")
    assert finding.health is Health.PROBLEM


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert opcua()[0].remedy == "pip install ./client '.[opcua]' in a checkout of Plumbline"
    assert otel("http://127.0.0.1:4318")[0].remedy == "pip install ./client '.[otel]' in a checkout of Plumbline"
