"""Open sinks from their configuration, and warn of weak options."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from service.host_names import is_loopback
from service.integrations.config import SinkConfig, WebhookConfig
from service.integrations.delivery import Sink
from service.integrations.mqtt import MqttSink
from service.integrations.webhook import WebhookSink


def make_sink(config: SinkConfig, *, is_test: bool = False) -> Sink:
    """Return the sink of a configuration. Secrets and certificates are read now; nothing is connected.

    Args:
        config: The configuration.
        is_test: Whether the sink only sends a test message, possibly beside a running service.

    Raises:
        SinksInvalid: A secret or a certificate cannot be read, or an optional package is not installed.
    """
    if isinstance(config, WebhookConfig):
        return WebhookSink(config)
    return MqttSink(config, is_test=is_test)


def warnings_of(config: SinkConfig) -> Iterator[str]:
    """Yield what is allowed, but weak, in the configuration of a sink.

    Raises:
        SinksInvalid: The URL cannot be read.
    """
    if isinstance(config, WebhookConfig):
        parts = urlsplit(config.read_url())
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            yield "the connection is not encrypted; use https"
        if config.secret is None:
            yield "requests have no signature, so the receiver cannot check the sender; set secret"
        return
    if config.tls is None and not is_loopback(config.host):
        yield "the connection is not encrypted; set tls = {} or tls.ca_file, and the port of the broker for TLS"
    if config.username is None and (config.tls is None or config.tls.cert_file is None):
        yield "the connection has neither a user name nor a client certificate"
