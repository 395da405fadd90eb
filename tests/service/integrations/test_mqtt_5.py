"""The MQTT sink with version 5 of the protocol against a real broker: trace context, session, and refused messages."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from service.integrations.config import MqttConfig
from service.integrations.delivery import Attempt, Event
from service.integrations.mqtt import MqttSink
from tests.service.integrations.broker import ADMIN, PASSWORD, TLS, USER, Broker, Subscriber, run_broker
from tests.service.integrations.receivers import wait_for

pytestmark = pytest.mark.slow
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = Event("e1", "inspection.created", "widget", "st1", b'{"inspection": {"id": "i1"}}', TRACE)
VERDICT = "plumbline/plant%2F1/st1/widget/verdict"


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setenv("MQTT_USER", USER)
    monkeypatch.setenv("MQTT_PASSWORD", PASSWORD)
    (tmp_path / "broker").mkdir()
    with run_broker(tmp_path / "broker") as running:
        yield running


class PropertySubscriber:
    """Receives messages with their user properties, over MQTT 5."""

    def __init__(self, broker: Broker) -> None:
        self.messages: list[tuple[str, dict[str, str]]] = []
        subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="properties", protocol=mqtt.MQTTv5)
        self._client.username_pw_set(ADMIN, PASSWORD)
        self._client.tls_set(ca_certs=str(TLS / "ca.pem"))
        self._client.on_message = self._receive
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def _receive(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        found = dict(getattr(message.properties, "UserProperty", []))
        self.messages.append((message.topic, found))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def sink_of(broker: Broker, **changes: Any) -> MqttSink:
    return MqttSink(MqttConfig.model_validate(broker.options(protocol="5", **changes)))


def send(sink: MqttSink, *events: Event) -> list[Attempt]:
    async def run() -> list[Attempt]:
        await sink.open(lambda: None)
        try:
            return [await sink.deliver(event) for event in events]
        finally:
            await sink.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(run())


def test_message_has_the_trace_context_as_user_property(broker: Broker) -> None:
    subscriber = PropertySubscriber(broker)
    without = replace(EVENT, id="e2", traceparent=None)
    assert [attempt.result for attempt in send(sink_of(broker), EVENT, without)] == ["delivered", "delivered"]
    wait_for(lambda: len(subscriber.messages) == 4)
    subscriber.close()
    verdicts = [properties for topic, properties in subscriber.messages if topic == VERDICT]
    assert verdicts == [{"traceparent": TRACE}, {}]


def test_message_of_version_3_has_no_user_property(broker: Broker) -> None:
    subscriber = PropertySubscriber(broker)
    sink = MqttSink(MqttConfig.model_validate(broker.options()))
    assert send(sink, EVENT)[0].result == "delivered"
    wait_for(lambda: len(subscriber.messages) == 3)
    subscriber.close()
    assert (VERDICT, {}) in subscriber.messages


def test_status_is_published_and_is_the_last_will(broker: Broker) -> None:
    subscriber = Subscriber(broker)

    async def run() -> None:
        sink = sink_of(broker)
        await sink.open(lambda: None)
        assert (await sink.deliver(EVENT)).result == "delivered"
        sink._client._client.socket().shutdown(2)  # the connection breaks without DISCONNECT
        assert sink._task is not None
        sink._task.cancel()  # and is not opened again
        await asyncio.wait([sink._task])

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(run())
    wait_for(lambda: subscriber.states() == ["online", "offline"])
    subscriber.close()


def test_message_that_the_broker_refuses_is_not_taken_for_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_USER", USER)
    monkeypatch.setenv("MQTT_PASSWORD", PASSWORD)
    broker = Broker(tmp_path)
    rules = tmp_path / "rules"
    rules.write_text(f"user {USER}\ntopic write plumbline/plant%2F1/st1/#\ntopic write plumbline/plant%2F1/line3/#\n")
    rules.chmod(0o600)
    broker.config.write_text(f"{broker.config.read_text()}acl_file {rules}\n")
    broker.start()
    sink = sink_of(broker)

    async def run() -> list[Attempt]:
        await sink.open(lambda: None)
        try:
            found = [await sink.deliver(event) for event in (EVENT, replace(EVENT, id="e2", station="other"))]
            # Mosquitto 2.0.11 closes the connection after it refused a message; others keep it open.
            attempts = 0
            while (again := await sink.deliver(replace(EVENT, id="e3"))).result == "unavailable" and attempts < 100:
                attempts += 1
                await asyncio.sleep(0.1)
            return [*found, again]
        finally:
            await sink.close()

    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            permitted, refused, again = runner.run(run())
    finally:
        broker.kill()
    assert (permitted.result, again.result) == ("delivered", "delivered")
    assert refused.result == "rejected"
    assert refused.detail.lower() == "the broker refused the message: not authorized"


def test_wrong_password_is_stated(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "wrong")
    (attempt,) = send(sink_of(broker, timeout_s=2.0), EVENT)
    assert attempt == Attempt("unavailable", "the broker refused the user name or the password")


def test_messages_are_json_in_both_versions(broker: Broker) -> None:
    subscriber = Subscriber(broker)
    assert send(sink_of(broker), EVENT)[0].result == "delivered"
    wait_for(lambda: len(subscriber.messages) >= 2)
    subscriber.close()
    assert json.loads(EVENT.body) in [body for _, body, _ in subscriber.messages]
