"""The MQTT sink against a real broker, which is killed and restarted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.integrations import worker as worker_module
from service.integrations.config import MqttConfig
from service.integrations.delivery import Attempt, Event
from service.integrations.events import test_event as make_test_event
from service.integrations.mqtt import MqttSink
from service.store.store import Store
from tests.service.integrations.broker import PASSWORD, USER, Broker, Subscriber, run_broker, settle
from tests.service.integrations.receivers import wait_for
from tests.service.integrations.running import deliver

pytestmark = pytest.mark.slow
EVENT = Event("e1", "inspection.created", "widget", "st+1", b'{"inspection": {"id": "i1"}}')


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setenv("MQTT_USER", USER)
    monkeypatch.setenv("MQTT_PASSWORD", PASSWORD)
    folder = tmp_path / "broker"
    folder.mkdir()
    with run_broker(folder) as running:
        yield running


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    running = Subscriber(broker)
    yield running
    running.close()


def sink_of(broker: Broker, **changes: Any) -> MqttSink:
    return MqttSink(MqttConfig.model_validate(broker.options(**changes)))


def send(sink: MqttSink, event: Event = EVENT) -> Attempt:
    async def run() -> Attempt:
        await sink.open(lambda: None)
        try:
            return await sink.deliver(event)
        finally:
            await sink.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(run())


def test_verdict_and_status_are_published(broker: Broker, subscriber: Subscriber) -> None:
    sink = sink_of(broker)
    assert sink.target == f"mqtts://127.0.0.1:{broker.port}"
    assert send(sink).result == "delivered"
    wait_for(lambda: len(subscriber.messages) == 3)

    topics = [topic for topic, _, _ in subscriber.messages]
    assert topics == [
        "plumbline/plant%2F1/line3/status",
        "plumbline/plant%2F1/st%2B1/widget/verdict",
        "plumbline/plant%2F1/line3/status",
    ]
    assert subscriber.states() == ["online", "offline"]
    late = Subscriber.__new__(Subscriber)  # the status is retained, the verdict is not
    subscriber.close()
    late.__init__(broker)  # type: ignore[misc]
    wait_for(lambda: len(late.messages) >= 1)
    settle()
    assert [(body["status"], retained) for _, body, retained in late.messages] == [("offline", True)]
    late.close()


def test_verdict_is_retained_on_request(broker: Broker, subscriber: Subscriber) -> None:
    assert send(sink_of(broker, retain=True)).result == "delivered"
    subscriber.wait_for(1)
    subscriber.close()
    late = Subscriber(broker)
    wait_for(lambda: len(late.messages) == 2)
    late.close()

    assert {topic.rpartition("/")[2] for topic, _, retained in late.messages if retained} == {"status", "verdict"}


def test_last_will_reports_a_service_that_disappears(broker: Broker, subscriber: Subscriber) -> None:
    async def run() -> None:
        sink = sink_of(broker)
        await sink.open(lambda: None)
        await sink.deliver(EVENT)
        sink._client._client.socket().shutdown(2)  # the connection breaks without DISCONNECT
        assert sink._task is not None
        sink._task.cancel()  # and is not opened again
        await asyncio.wait([sink._task])

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(run())
    wait_for(lambda: subscriber.states() == ["online", "offline"])


def test_test_message_does_not_disturb_a_running_service(broker: Broker, subscriber: Subscriber) -> None:
    async def run() -> Attempt:
        service = sink_of(broker)
        await service.open(lambda: None)
        assert (await service.deliver(EVENT)).result == "delivered"
        test = MqttSink(MqttConfig.model_validate(broker.options()), is_test=True)
        await test.open(lambda: None)
        attempt = await test.deliver(make_test_event())
        await test.close()
        assert (await service.deliver(EVENT)).result == "delivered"
        await service.close()
        return attempt

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(run()).result == "delivered"
    wait_for(lambda: len(subscriber.messages) == 5)
    assert subscriber.states() == ["online", "offline"], "the service stayed connected"
    assert [topic for topic, body, _ in subscriber.messages if body.get("event_type") == "test"] == [
        "plumbline/plant%2F1/line3/test"
    ]


@pytest.mark.parametrize(
    ("changes", "variable", "expected"),
    [
        ({}, "wrong", "the broker refused the user name or the password"),
        ({"tls": {}}, PASSWORD, "the certificate of the broker is not trusted; set tls.ca_file"),
        ({"port": 9}, PASSWORD, "the connection to the broker failed"),
        ({"tls": None, "timeout_s": 0.5}, PASSWORD, "the broker did not respond in time"),
    ],
    ids=["password", "certificate", "port", "no TLS"],
)
# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_reason_of_a_failed_connection_is_reported(
    changes: dict[str, Any], variable: str, expected: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", variable)
    found = send(sink_of(broker, **changes))

    assert found.result == "unavailable"
    assert found.detail == expected


def test_names_with_characters_that_brokers_refuse_are_published(broker: Broker, subscriber: Subscriber) -> None:
    """A broker closes the connection for a topic with a noncharacter, which would block all other messages."""
    for station in ("\ufdd0", "a\uffff", "\U0001fffe", "\x85"):
        event = Event("e1", "inspection.created", "widget", station, EVENT.body)
        assert send(sink_of(broker), event).result == "delivered"


def test_message_that_cannot_be_published_is_refused(broker: Broker) -> None:
    found = send(sink_of(broker), Event("e1", "inspection.created", "widget", "s" * 70_000, b"{}"))

    assert found == Attempt("refused", "the message is too large, or its topic is not valid")


def test_every_message_arrives_in_order_although_the_broker_is_killed(
    broker: Broker, subscriber: Subscriber, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("POLL_S", 0.1), ("MAINTENANCE_S", 0.2), ("CONFIRM_S", 0.05)):
        monkeypatch.setattr(worker_module, name, value)
    config = MqttConfig.model_validate(broker.options())
    with deliver(store, (config, MqttSink(config))) as running:
        records = []

        def inspect() -> None:
            for number in range(300):
                records.append(running.write(product=f"p{number % 3}"))
                time.sleep(0.005)

        line = threading.Thread(target=inspect)
        line.start()
        for count in (40, 120):
            subscriber.wait_for(count)
            broker.kill()
            wait_for(lambda: not subscriber.is_subscribed)
            broker.restart_for(subscriber)
        line.join()
        subscriber.wait_for(300)
        wait_for(lambda: running.pending("scada") == 0)

    received = subscriber.inspections()
    for product in ("p0", "p1", "p2"):
        expected = [record.id for record in records if record.product == product]
        assert [one for one in received if one in set(expected)] == expected
    wait_for(lambda: subscriber.states()[-1:] == ["offline"])


def test_stop_is_bounded_while_the_broker_does_not_respond(
    broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    config = MqttConfig.model_validate(broker.options())
    with deliver(store, (config, MqttSink(config))) as running:
        running.write()
        wait_for(lambda: running.pending("scada") == 0)
        assert broker.process is not None
        broker.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        running.write()
        assert time.monotonic() - started < 1.0, "a verdict does not wait for the broker"
        time.sleep(0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 8.0
    broker.process.send_signal(signal.SIGCONT)
    assert running.pending("scada") == 1
