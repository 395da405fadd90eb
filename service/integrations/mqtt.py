"""The MQTT sink: publishes with QoS 1 over one connection, which it keeps open.

The retained status topic is `online` while the connection is open. The broker publishes `offline` on behalf of a
service that disappears (last will).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from service.integrations.backoff import delay_s
from service.integrations.config import MqttConfig
from service.integrations.delivery import Attempt, Event
from service.integrations.errors import SinksInvalid
from service.integrations.tls import client_context
from service.integrations.topics import status_topic, test_topic, verdict_topic
from service.version import VERSION

log = structlog.get_logger(__name__)

QOS = 1
_CLOSE_S = 2.0


class MqttSink:
    """Publishes events to a broker.

    Args:
        config: The configuration. Secrets and certificates are read now.
        is_test: Connect under another client id and without status, so that a running service stays connected.

    Raises:
        SinksInvalid: A secret or a certificate cannot be read, or the package aiomqtt is not installed.
    """

    def __init__(self, config: MqttConfig, *, is_test: bool = False) -> None:
        try:
            import aiomqtt

            from service.integrations import mqtt_client
        except ImportError as error:
            raise SinksInvalid(
                f"sink {config.name!r} needs the package aiomqtt, which is not installed. Install it with pip install "
                "./client '.[mqtt]' in a checkout of Plumbline."
            ) from error
        self._aiomqtt, self._clients = aiomqtt, mqtt_client
        self._config = config
        self._is_test = is_test
        self._username = None if config.username is None else config.username.read(config.name, "username")
        self._password = None if config.password is None else config.password.read(config.name, "password")
        self._tls = None if config.tls is None else client_context(config.tls, config.name)
        self._status_topic = status_topic(config.topic_prefix, config.site, config.client_id)
        self._client: Any = None
        self._problem = "the connection is being opened"
        # Set when the connection was lost, or must be opened anew. Each connection has its own.
        self._lost = asyncio.Event()
        self._first_try = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def target(self) -> str:
        """Host and port of the broker."""
        return f"{'mqtt' if self._tls is None else 'mqtts'}://{self._config.host}:{self._config.port}"

    async def open(self, on_available: Callable[[], None]) -> None:
        """Start to connect."""
        self._task = asyncio.create_task(self._stay_connected(on_available))

    async def deliver(self, event: Event) -> Attempt:
        """Publish an event once and wait for the broker's acknowledgement (PUBACK)."""
        with contextlib.suppress(TimeoutError):
            # Time to connect, and then to receive the broker's response.
            await asyncio.wait_for(self._first_try.wait(), 2 * self._config.timeout_s)
        client, lost = self._client, self._lost
        if client is None:
            return Attempt("unavailable", self._problem)
        config = self._config
        if event.product is None:
            topic, retain = test_topic(config.topic_prefix, config.site, config.client_id), False
        else:
            topic = verdict_topic(config.topic_prefix, config.site, event.station, event.product)
            retain = config.retain
        publishing = asyncio.create_task(
            client.send(
                topic,
                event.body,
                qos=QOS,
                retain=retain,
                timeout_s=config.timeout_s,
                traceparent=event.traceparent,
            )
        )
        losing = asyncio.create_task(lost.wait())
        try:
            await asyncio.wait([publishing, losing], return_when=asyncio.FIRST_COMPLETED)
            if publishing.done():
                publishing.result()
                return Attempt("delivered")
        except self._aiomqtt.MqttError:
            # Whether the broker has the message is unknown. A new connection starts without messages in flight, so
            # that this one is sent again before later ones.
            lost.set()
            return Attempt("unavailable", "the broker did not acknowledge the message")
        except self._clients.MessageRefused as error:
            return Attempt("rejected", f"the broker refused the message: {error.reason}")
        except ValueError:  # from paho, before anything is sent
            return Attempt("refused", "the message is too large, or its topic is not valid")
        finally:
            publishing.cancel()
            losing.cancel()
            await asyncio.gather(publishing, losing, return_exceptions=True)
        return Attempt("unavailable", "the connection to the broker was lost")

    async def close(self) -> None:
        """Publish `offline` and disconnect."""
        task, client = self._task, self._client
        if task is None:
            return
        self._task, self._client = None, None
        if client is not None and not self._is_test:
            with contextlib.suppress(self._aiomqtt.MqttError):
                await client.publish(self._status_topic, _status("offline"), qos=QOS, retain=True, timeout=_CLOSE_S)
        task.cancel()
        await asyncio.wait([task], timeout=_CLOSE_S)

    async def _stay_connected(self, on_available: Callable[[], None]) -> None:
        failures = 0
        while True:
            try:
                async with self._new_client() as client:
                    if not self._is_test:
                        await client.publish(self._status_topic, _status("online"), qos=QOS, retain=True)
                    failures = 0
                    self._lost = asyncio.Event()
                    self._client = client
                    self._first_try.set()
                    on_available()
                    await self._until_lost(client)
            except self._aiomqtt.MqttError as error:
                self._problem = _problem(error)
            except Exception:  # a defect must not end the connection forever
                self._problem = "the connection failed unexpectedly; see the log"
                log.exception("connection to the broker failed", sink=self._config.name)
            finally:
                self._client = None
                self._lost.set()
                self._first_try.set()
            failures += 1
            await asyncio.sleep(delay_s(failures, self._config.backoff_base_s, self._config.backoff_max_s))

    async def _until_lost(self, client: Any) -> None:
        """Return when the connection must be opened anew, or raise the error of the connection."""

        async def watch() -> None:
            async for _ in client.messages:  # nothing is subscribed; ends with an error when the connection ends
                pass

        tasks = [asyncio.create_task(watch()), asyncio.create_task(self._lost.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Nothing is sent over this connection while it is being closed.
            self._client = None
            self._lost.set()
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _new_client(self) -> Any:
        will = self._aiomqtt.Will(self._status_topic, _status("offline"), qos=QOS, retain=True)
        return self._clients.BrokerClient(
            self._config,
            username=self._username,
            password=self._password,
            tls=self._tls,
            will=None if self._is_test else will,
            is_test=self._is_test,
        )


def _status(state: str) -> bytes:
    """Return the payload of the status topic. The time of a last will is that of the connection."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"status": state, "since": moment, "version": VERSION}).encode()


def _problem(error: Exception) -> str:
    """Return why there is no connection, in our own words."""
    text = str(error).lower()
    if "certificate" in text:
        return "the certificate of the broker is not trusted; set tls.ca_file"
    if "not authorized" in text or "bad user name" in text or "bad username" in text:
        return "the broker refused the user name or the password"
    if "protocol" in text:
        return "the broker does not support this version of MQTT; set protocol"
    if "identifier" in text:
        return "the broker refused the client id"
    if "timed out" in text:
        return "the broker did not respond in time"
    return "the connection to the broker failed"
