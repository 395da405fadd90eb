"""Configurations of proxies in front of replicas. `tests/service/process/test_replicas.py` runs HAProxy."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.certificates import make_certificate
from tests.proxy import CONFIGURATION, ROOT, find_haproxy

ENVOY = ROOT / "deploy" / "envoy" / "envoy.yaml"
GUIDE = ROOT / "docs" / "how-to" / "proxy.md"


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    """Have HAProxy check the configuration with environment variables, without their prefix."""
    given = {f"PLUMBLINE_{name}": value for name, value in variables.items()}
    command = [find_haproxy(), "-c", "-f", str(CONFIGURATION)]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "variables",
    [
        {f"REPLICA_{number}": f"10.0.0.{number}:8000" for number in range(1, 9)},
        {"REPLICAS_DNS": "plumbline.plant.example:8000"},
        {"REPLICA_1": "10.0.0.1:8000", "PROXY_FORWARDED": "1", "PROXY_SOCKET": "/tmp/haproxy.sock"},
        {"REPLICA_1": "10.0.0.1:8000", "PROXY_USER": "root"},
        {"REPLICA_1": "10.0.0.1:8000", "PROXY_BALANCE": "120", "PROXY_MAXCONN": "100", "PROXY_BUFFER": "4194304"},
        {"REPLICA_1": "10.0.0.1:8000", "PROXY_TIMEOUT": "5s", "PROXY_LONG_TIMEOUT": "6s", "PROXY_STREAM_TIMEOUT": "7s"},
    ],
    ids=["addresses", "dns", "behind-another-proxy", "user", "limits", "timeouts"],
)
def test_haproxy_accepts_the_configuration(variables: dict[str, str]) -> None:
    done = check(**variables)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_haproxy_accepts_certificates(tmp_path: Path) -> None:
    paths = make_certificate().write(tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(paths["tls_certificate"].read_text() + paths["tls_key"].read_text())
    done = check(
        REPLICA_1="10.0.0.1:8000",
        PROXY_CERTIFICATE=str(both),
        PROXY_REPLICA_CA=str(paths["tls_certificate"]),
    )
    assert done.returncode == 0, done.stderr
    assert check(REPLICA_1="10.0.0.1:8000", PROXY_CERTIFICATE=str(tmp_path / "missing")).returncode != 0


def test_haproxy_refuses_a_configuration_without_a_replica() -> None:
    done = check(PROXY_BIND="127.0.0.1:8080")
    assert done.returncode != 0
    assert "No replica is defined: set PLUMBLINE_REPLICA_1" in done.stderr
    assert check(REPLICA_8="10.0.0.8:8000").returncode == 0, "the first one may be missing"


def test_variables_of_haproxy_are_described() -> None:
    text = CONFIGURATION.read_text()
    header, _, rest = text.partition("\nglobal\n")
    used = set(re.findall(r"PLUMBLINE_(?:PROXY|REPLICA)\w*", rest)) - {f"PLUMBLINE_REPLICA_{n}" for n in range(2, 9)}
    described = set(re.findall(r"^#   (PLUMBLINE_\w+)", header, re.MULTILINE))
    assert used == described
    assert described <= set(re.findall(r"`(PLUMBLINE_\w+)`", GUIDE.read_text()))


def test_envoy_has_the_same_rules_as_haproxy() -> None:
    configuration: dict[str, Any] = yaml.safe_load(ENVOY.read_text())
    (listener,), (cluster,) = (configuration["static_resources"][name] for name in ("listeners", "clusters"))
    text = CONFIGURATION.read_text()
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/health/ready"
    bound = cluster["common_lb_config"]["consistent_hashing_lb_config"]["hash_balance_factor"]
    assert f"PLUMBLINE_PROXY_BALANCE-{bound}" in text
    assert 100 < bound < 200, "all load at one of two replicas is 200 percent of the mean, and has to be passed on"
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["use_remote_address"] is True
    assert manager["skip_xff_append"] is True
    assert manager["upgrade_configs"] == [{"upgrade_type": "websocket"}]
    (host,) = manager["route_config"]["virtual_hosts"]
    routes = [one["route"] for one in host["routes"] if "route" in one]
    assert {route["cluster"] for route in routes} == {cluster["name"]}
    pattern = routes[0]["hash_policy"][0]["header"]["regex_rewrite"]["pattern"]["regex"]
    for path in ("v1/products/washer/inspections", "v2/models/washer/infer", "v1/products/washer?a=b"):
        found = re.fullmatch(pattern, f"/{path}")
        assert found is not None
        assert found[1] == "washer"
    assert re.fullmatch(pattern, "/v1/inspections") is None
    # Only the routes of reads and of requests with a key repeat what may have reached a replica.
    repeated = [one["match"].get("headers") for one in host["routes"] if "reset" in str(one.get("route"))]
    assert [headers[0]["name"] for headers in repeated] == [":method", "idempotency-key"]
