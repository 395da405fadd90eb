"""A connection to an MQTT broker, of version 3.1.1 or 5. Importing it needs the package aiomqtt."""

from __future__ import annotations

import ssl
from contextvars import ContextVar
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from service.integrations.config import MqttConfig

_FOREVER_S = 0xFFFFFFFF
_SENT: ContextVar[int | None] = ContextVar("sent", default=None)
"""Number of the message that the current task published last; the library does not return it."""


class MessageRefused(Exception):
    """The broker acknowledged a message with an error, which version 5 allows.

    Attributes:
        reason: Why, in the words of the standard.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BrokerClient(aiomqtt.Client):
    """A connection over which messages are published.

    The library takes an acknowledgement with an error for one without.

    Args:
        config: The configuration.
        username: Name of the user; None for none.
        password: The password; None for none.
        tls: TLS; None for a connection without encryption.
        will: What the broker publishes if the connection is lost; None for nothing.
        is_test: Connect under another client id, and without a session that the broker keeps.
    """

    def __init__(
        self,
        config: MqttConfig,
        *,
        username: str | None,
        password: str | None,
        tls: ssl.SSLContext | None,
        will: aiomqtt.Will | None,
        is_test: bool,
    ) -> None:
        self._is_5 = config.protocol == "5"
        self._refused: dict[int, str] = {}
        # The broker keeps the session of the client id, and with it messages that were not acknowledged.
        session: dict[str, Any] = {"clean_session": is_test}
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if is_test else _FOREVER_S
            session = {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": is_test, "properties": properties}
        super().__init__(
            config.host,
            config.port,
            identifier=f"{config.client_id}-test" if is_test else config.client_id,
            username=username,
            password=password,
            tls_context=tls,
            keepalive=config.keep_alive_s,
            timeout=config.timeout_s,
            will=will,
            **session,
        )
        publish = self._client.publish

        def publish_and_note(*args: Any, **options: Any) -> Any:
            info = publish(*args, **options)
            _SENT.set(info.mid)
            return info

        self._client.publish = publish_and_note  # type: ignore[method-assign]

    async def send(
        self, topic: str, body: bytes, *, qos: int, retain: bool, timeout_s: float, traceparent: str | None = None
    ) -> None:
        """Publish a message and wait for its acknowledgement.

        Args:
            topic: The topic.
            body: The payload.
            qos: Quality of service.
            retain: Whether the broker keeps the message for new subscribers.
            timeout_s: Seconds to wait for the acknowledgement.
            traceparent: W3C trace context; a user property of the message in version 5, which 3.1.1 does not have.

        Raises:
            aiomqtt.MqttError: Whether the broker has the message is unknown.
            MessageRefused: The broker refused it.
            ValueError: The message is too large, or its topic is not valid; nothing was sent.
        """
        properties: Properties | None = None
        if self._is_5 and traceparent is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = [("traceparent", traceparent)]
        await self.publish(topic, body, qos=qos, retain=retain, properties=properties, timeout=timeout_s)
        sent = _SENT.get()
        reason = None if sent is None else self._refused.pop(sent, None)
        if reason is not None:
            raise MessageRefused(reason)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            self._refused[mid] = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)
