"""A real MQTT broker (Debian's mosquitto) and a subscriber for tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.service.integrations.receivers import wait_for

TLS = Path(__file__).parents[2] / "client" / "tls"
USER, PASSWORD = "line3", "a-password"
ADMIN = "admin"


class Broker:
    """A broker with TLS, passwords and persistence, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto")
        if program is None:
            pytest.skip("mosquitto is not installed: run `make system-deps` (Debian package mosquitto)")
        self.program = program
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        passwords = self.passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        self._set_password(ADMIN)
        self._set_password(USER)
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"certfile {TLS / 'server.pem'}",
            f"keyfile {TLS / 'server.pem'}",
            f"cafile {TLS / 'ca.pem'}",
            "allow_anonymous false",
            f"password_file {passwords}",
            "persistence true",
            f"persistence_location {folder}/",
            # Sessions survive a kill of the broker.
            "autosave_on_changes true",
            "autosave_interval 1",
            "max_queued_messages 0",
        ]
        if Path("/proc/self").owner() == "root":
            lines.append("user root")  # otherwise it changes its user and cannot read the folder
        self.config = folder / "mosquitto.conf"
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "mosquitto.log").open("ab")
        with log:
            self.process = subprocess.Popen([self.program, "-c", self.config, "-v"], stderr=log, stdout=log)

        def is_listening() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text(encoding="utf-8")
            return False

        wait_for(is_listening)

    def restart_for(self, subscriber: Subscriber) -> None:
        """Start the broker after a kill, and admit the publisher when the subscriber is back.

        A killed broker loses what it holds for a subscriber that is not connected.
        """
        self._set_password(USER, "-D")
        self.start()
        subscriber.wait_until_subscribed()
        self._set_password(USER)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)  # read the passwords again

    def _set_password(self, user: str, option: str = "-b") -> None:
        more = [] if option == "-D" else [PASSWORD]
        subprocess.run(["mosquitto_passwd", option, self.passwords, user, *more], check=True, capture_output=True)

    def kill(self) -> None:
        """Kill the broker with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return the configuration of a sink that connects to this broker; `MQTT_USER`, `MQTT_PASSWORD` are needed."""
        return {
            "name": "scada",
            "kind": "mqtt",
            "host": "127.0.0.1",
            "port": self.port,
            "site": "plant/1",
            "client_id": "line3",
            "username": {"env": "MQTT_USER"},
            "password": {"env": "MQTT_PASSWORD"},
            "tls": {"ca_file": str(TLS / "ca.pem")},
            "timeout_s": 5.0,
            "backoff_base_s": 0.05,
            "backoff_max_s": 0.2,
        } | changes


@contextmanager
def run_broker(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


class Subscriber:
    """Receives every message, over a persistent session, also after the broker was restarted."""

    def __init__(self, broker: Broker) -> None:
        self.messages: list[tuple[str, dict[str, Any], bool]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False, protocol=mqtt.MQTTv311
        )
        self._client.username_pw_set(ADMIN, PASSWORD)
        self._client.tls_set(ca_certs=str(TLS / "ca.pem"))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._receive
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self.wait_until_subscribed()

    @property
    def is_subscribed(self) -> bool:
        return self._subscribed.is_set()

    def wait_until_subscribed(self) -> None:
        assert self._subscribed.wait(15)

    def _receive(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.messages.append((message.topic, json.loads(message.payload), message.retain))

    def inspections(self) -> list[str]:
        """Return the ids of inspections in the order of their first arrival."""
        found = [body["inspection"]["id"] for topic, body, _ in list(self.messages) if topic.endswith("/verdict")]
        return list(dict.fromkeys(found))

    def states(self) -> list[str]:
        return [body["status"] for topic, body, _ in list(self.messages) if topic.endswith("/status")]

    def wait_for(self, count: int) -> None:
        wait_for(lambda: len(self.inspections()) >= count, 40)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def settle() -> None:
    """Give a message that should not arrive time to arrive."""
    time.sleep(0.3)
