"""A real MQTT broker (mosquitto) for tests, and somebody who listens to it."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
WAIT_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MqttBroker:
    """mosquitto on a port of its own. user, password: without them nobody gets in. tls: (certificate, key)."""

    def __init__(self, folder: Path, user: str = "", password: str = "", tls: tuple[Path, Path] | None = None):
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed: sudo apt-get install mosquitto")
        pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'vlf_edge[mqtt]'")
        self.port, self._config = free_port(), folder / "mosquitto.conf"
        # It remembers who listens over a kill, and keeps what comes meanwhile for them.
        kept = [
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",
        ]
        lines = [f"listener {self.port} 127.0.0.1", *kept, "user root", f"allow_anonymous {str(not user).lower()}"]
        if user:
            passwords = folder / "passwords"
            passwords.touch(0o600)
            subprocess.run(["mosquitto_passwd", "-b", passwords, user, password], check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        if tls:
            lines += [f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stderr=subprocess.DEVNULL)
        until(lambda: _accepts(self.port))

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> MqttBroker:
        return self

    def __exit__(self, *exc_info) -> None:
        self.kill()


class Listener:
    """Everything that is published. heard: [(topic, payload, retained)], in order; kept: {topic: newest payload}."""

    def __init__(self, port: int, user: str | None = None, password: str | None = None, ca: Path | None = None):
        import paho.mqtt.client as mqtt

        self.heard: list[tuple[str, str, bool]] = []
        self.kept: dict[str, str] = {}
        self._ready = threading.Event()
        name = f"listener-{secrets.token_hex(6)}"
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        self._client.username_pw_set(user, password)
        if ca:
            self._client.tls_set(str(ca))
        self._client.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *rest: self._ready.set()
        self._client.on_message = self._hear
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("localhost", port)
        self._client.loop_start()
        assert self._ready.wait(WAIT_S)

    def _hear(self, client, data, message) -> None:
        payload = message.payload.decode()
        self.heard.append((message.topic, payload, message.retain))
        self.kept[message.topic] = payload

    def json_of(self, topic: str) -> list[dict]:
        return [json.loads(payload) for at, payload, _ in list(self.heard) if at == topic]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc_info) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def until(condition, wait_s: float = WAIT_S) -> None:
    """Waits until it is true."""
    deadline_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
