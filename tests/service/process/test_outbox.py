"""The outbox of a real process that is killed: every message arrives, in order, and no secret is logged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bundles import write_tiny_bundle
from tests.running_service import GOOD, INSPECT
from tests.service.integrations.broker import PASSWORD, USER, Broker, Subscriber, run_broker
from tests.service.integrations.receivers import Receiver, Reply, receive, wait_for
from tests.serving import ServiceProcess, service_process

pytestmark = pytest.mark.slow
IMAGE = {"content-type": "image/png"}
SECRETS = {"mes_secret": "a-secret-key-a-secret-key", "mqtt_password": PASSWORD}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with run_broker(folder) as running:
        yield running


def write_sinks(file: Path, receiver: Receiver, broker: Broker) -> Path:
    ca_file = broker.options()["tls"]["ca_file"]
    file.write_text(
        f"""
[[sink]]
name = "mes"
kind = "webhook"
url = "{receiver.url}/path-secret"
secret = {{ file = "{file.with_name("mes_secret")}" }}
backoff_base_s = 0.05
backoff_max_s = 0.5

[[sink]]
name = "scada"
kind = "mqtt"
host = "127.0.0.1"
port = {broker.port}
site = "plant1"
client_id = "line3"
username = {{ file = "{file.with_name("mqtt_user")}" }}
password = {{ file = "{file.with_name("mqtt_password")}" }}
tls = {{ ca_file = "{ca_file}" }}
backoff_base_s = 0.05
backoff_max_s = 0.5
""",
        encoding="utf-8",
    )
    for name, secret in (SECRETS | {"mqtt_user": USER}).items():
        file.with_name(name).write_text(secret, encoding="utf-8")
    return file


def inspect_until_killed(service: ServiceProcess, kill_after: int) -> list[str]:
    """Send images with four clients, kill the process, and return the ids of the answered inspections."""
    answered: list[str] = []

    def send() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            try:
                while True:
                    answered.append(client.post(INSPECT, content=GOOD, headers=IMAGE).raise_for_status().json()["id"])
            except httpx.TransportError:
                return

    clients = [threading.Thread(target=send) for _ in range(4)]
    for client in clients:
        client.start()
    wait_for(lambda: len(answered) >= kill_after)
    service.kill()
    for client in clients:
        client.join()
    return answered


def test_killed_process_delivers_everything_after_its_restart(tmp_path: Path, broker: Broker) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    write_tiny_bundle(models)
    subscriber = Subscriber(broker)
    with receive() as receiver:
        settings = {"provider": "cpu", "sinks": str(write_sinks(tmp_path / "sinks.toml", receiver, broker))}
        # When the process is killed, all messages to the webhook are pending, and those to the broker are on their way.
        receiver.default = Reply(503)
        with service_process(models, data, settings) as service:
            service.wait_until(200)
            answered = inspect_until_killed(service, 40)
            logs = list(service.log)
        receiver.default = Reply(200)
        with service_process(models, data, settings) as service:
            service.wait_until(200)
            with httpx.Client(base_url=service.url) as client:
                wait_for(lambda: [sink["pending"] for sink in client.get("/v1/outbox").json()["sinks"]] == [0, 0], 40)
            assert service.terminate() == 0
            logs += service.log
        delivered = [request.event["inspection"]["id"] for request in receiver.requests]
        wait_for(lambda: set(answered) <= set(subscriber.inspections()))
        subscriber.close()

    assert len(answered) >= 40
    assert set(answered) <= set(delivered)
    # With several clients, the order in which inspections are stored is not that of their responses; both sinks must
    # see the same one.
    first_seen = list(dict.fromkeys(delivered))
    assert subscriber.inspections() == first_seen
    assert subscriber.states()[-1] == "offline"
    text = str(logs)
    assert "delivering to sink" in text
    for secret in (*SECRETS.values(), "path-secret"):
        assert secret not in text
