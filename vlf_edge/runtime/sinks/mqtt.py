"""Events and states to an MQTT broker, and to Home Assistant through it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..._version import __version__
from ...credentials import read_secret, split_credentials
from ...errors import BackendMissing, VlfError
from ...options import check_options, option
from ...types import Event, Frame, Prediction
from .health import Health
from .home_assistant import discovery
from .sink import Run, Sink
from .text import event_to_json, to_json

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_QUEUED = 1000
_KEEPALIVE_S = 30
_LAST_WORDS_S = 1.0


@dataclass(frozen=True)
class Broker:
    """Where to publish: ``parse`` reads it from mqtt://user:password@host:port/prefix."""

    host: str
    port: int
    tls: bool
    prefix: str
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Broker:
        """The password may hold any character (see ``split_credentials``) and is in no message. Raises VlfError."""
        bare, user, password = split_credentials(url)
        form = "expected mqtt://[user:password@]host[:port][/prefix], or mqtts:// for TLS"
        try:
            found = urlsplit(bare)
            port = found.port
        except ValueError:
            raise VlfError(f"the address of the MQTT broker has no valid port; {form}") from None
        if found.scheme not in _PORTS or not found.hostname:
            raise VlfError(f"the address of the MQTT broker names no host; {form}")
        prefix = found.path.strip("/") or "vlf_edge"
        if re.search(r"[?+#\0]", bare):
            raise VlfError(f"the topic prefix of the MQTT broker holds ?, #, + or a zero; {form}")
        port = port or _PORTS[found.scheme]
        return cls(found.hostname, port, found.scheme == "mqtts", prefix, user, password)

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}/{self.prefix}"

    __repr__ = __str__


class MqttSink(Sink):
    """Publishes to a broker, for as long as it takes: connects, and connects again, on a thread of paho's.

    Topics under the prefix (docs/sinks.md has the payloads): ``availability``; and of each stream ``STREAM/state``,
    ``STREAM/action``, both kept by the broker (retained), ``STREAM/event`` and, with ``decisions``,
    ``STREAM/decision``.

    url: see ``Broker.parse``. streams: names known from the start. follow_events: the action is the event that goes on;
    otherwise the latest decision. qos: of events, of which ``queued`` at most wait for a connection; the rest is sent
    with QoS 0, and what the broker keeps is sent anew with every connection. ca_file: certificates to trust instead of
    the system's. discovery_prefix: tells Home Assistant of the streams under it. ``health`` counts messages that were
    sent, and confirmed where the QoS asks for that. Raises VlfError, BackendMissing.
    """

    def __init__(
        self,
        url: str,
        *,
        streams: Sequence[str] = (),
        decisions: bool = False,
        follow_events: bool = True,
        qos: int = 1,
        ca_file: str | None = None,
        discovery_prefix: str | None = None,
        queued: int = _QUEUED,
    ):
        self._broker = Broker.parse(url)
        self._decisions, self._follow_events, self._qos = decisions, follow_events, qos
        self._discovery_prefix = discovery_prefix
        self._topics: dict[str, str] = {}
        self._goes_on: dict[str, str] = {}  # stream -> label of its open event
        self._kept: dict[str, str] = {}  # what the broker is to keep: topic -> payload
        self._lock = threading.Lock()
        self._ended = self._up = False
        self._sent = 0
        self.health = Health(self.name, "messages")
        self._mqtt = _load_paho()
        self._client = self._make_client(ca_file, queued)
        with self._lock:
            for stream in streams:
                self._topic(stream)
        self._client.connect_async(self._broker.host, self._broker.port, _KEEPALIVE_S)
        self._client.loop_start()

    @property
    def name(self) -> str:
        return f"MQTT {self._broker}"

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is None:
            return
        with self._lock:
            topic = self._topic(prediction.stream)
            self._keep(f"{topic}/state", prediction.state)
            if prediction.state in ("no_signal", "ended"):
                self._keep(f"{topic}/action", "unknown")
            elif prediction.state == "ok":
                self._keep(f"{topic}/action", self._action(prediction))
            if self._decisions and self._client.is_connected():
                self._publish(f"{topic}/decision", json.dumps(to_json(prediction)))

    def write_event(self, event: Event) -> None:
        with self._lock:
            topic = self._topic(event.stream)
            if event.t_end_s is None:
                self._goes_on[event.stream] = event.label
            else:
                self._goes_on.pop(event.stream, None)
            if self._follow_events:
                self._keep(f"{topic}/action", self._goes_on.get(event.stream, "none"))
            self._publish(f"{topic}/event", json.dumps(event_to_json(event)), qos=self._qos)

    def close(self) -> None:
        """Says "offline" and waits a second at most for what is on its way."""
        if self._ended:
            return
        self._ended = True
        if self._client.is_connected():
            last = self._client.publish(self._availability, "offline", qos=1, retain=True)
            self._sent += 1
            try:
                last.wait_for_publish(_LAST_WORDS_S)
            except (RuntimeError, ValueError):
                pass  # the connection went at this moment: the broker's copy of our will says it
        self._client.disconnect()
        self.health.drops(max(0, self._sent - self.health.written))

    @property
    def _availability(self) -> str:
        return f"{self._broker.prefix}/availability"

    def _make_client(self, ca_file: str | None, queued: int) -> Any:
        mqtt, broker = self._mqtt, self._broker
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.will_set(self._availability, "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(queued)
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            try:
                client.tls_set(ca_file)
            except OSError as error:
                raise VlfError(f"cannot use the certificates in {ca_file}: {error.strerror or error}") from None
        client.on_connect, client.on_connect_fail = self._connected, self._connect_failed
        client.on_disconnect, client.on_publish = self._disconnected, self._confirmed
        return client

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self.health.fails(f"the broker refuses the connection: {reason}")
            return
        self._up = True
        self.health.wrote(0)
        with self._lock:
            self._send_kept(self._availability, "online")
            for stream, topic in self._topics.items():
                self._discover(stream, topic)
            for topic, payload in self._kept.items():
                self._send_kept(topic, payload)

    def _connect_failed(self, client: Any, data: Any) -> None:
        if not self._ended:
            self.health.fails(f"no connection to {self._broker.host}:{self._broker.port}")

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not self._ended and self._up:  # else the refusal is what counts
            self.health.fails(f"the connection to {self._broker.host}:{self._broker.port} was lost")
        self._up = False

    def _confirmed(self, client: Any, data: Any, number: int, reason: Any, properties: Any) -> None:
        self.health.wrote()

    def _topic(self, stream: str) -> str:
        """The topic of a stream; a new stream's state begins here."""
        if stream not in self._topics:
            name = base = re.sub(r"[^\w.-]+", "_", stream) or "_"
            number = 1
            while f"{self._broker.prefix}/{name}" in self._topics.values():
                number += 1
                name = f"{base}_{number}"
            topic = self._topics[stream] = f"{self._broker.prefix}/{name}"
            if self._client.is_connected():
                self._discover(stream, topic)
            self._keep(f"{topic}/action", "none" if self._follow_events else "unknown")
        return self._topics[stream]

    def _action(self, prediction: Prediction) -> str:
        return self._goes_on.get(prediction.stream, "none") if self._follow_events else str(prediction.label)

    def _keep(self, topic: str, payload: str) -> None:
        if self._kept.get(topic) != payload:
            self._kept[topic] = payload
            if self._client.is_connected():  # else it goes, once and as it is then, with the next connection
                self._send_kept(topic, payload)

    def _send_kept(self, topic: str, payload: str) -> None:
        self._publish(topic, payload, retain=True)

    def _discover(self, stream: str, topic: str) -> None:
        if self._discovery_prefix:
            for at, config in discovery(self._discovery_prefix, stream, topic, self._availability, __version__).items():
                self._send_kept(at, json.dumps(config))

    def _publish(self, topic: str, payload: str, qos: int = 0, retain: bool = False) -> None:
        """Under the lock. What the broker keeps has QoS 0: what paho repeats after a new connection would come after
        what is newer."""
        sent = self._client.publish(topic, payload, qos=qos, retain=retain)
        waits = qos > 0 and sent.rc == self._mqtt.MQTT_ERR_NO_CONN
        if sent.rc == self._mqtt.MQTT_ERR_SUCCESS or waits:
            self._sent += 1
        else:
            self.health.drops()


def _load_paho() -> Any:
    try:
        import paho.mqtt.client as mqtt
    except ImportError:
        mqtt = None
    if not hasattr(mqtt, "CallbackAPIVersion"):
        found = "is not installed" if mqtt is None else "is older than 2.0"
        raise BackendMissing(f"paho-mqtt {found}, and --mqtt needs it", remedy="pip install 'vlf_edge[mqtt]'")
    return mqtt


@dataclass(frozen=True)
class MqttOptions:
    """What the command line says of it."""

    mqtt: str | None = option(
        None,
        "publish states and events: mqtt://[user:password@]host[:port][/prefix], mqtts:// for TLS; @FILE reads the "
        "address from a file",
        "URL",
    )
    mqtt_decisions: bool = option(False, "also publish every decision")
    mqtt_discovery: str | None = option(
        None, "tell Home Assistant of the streams under this prefix, which it calls homeassistant", "PREFIX"
    )
    mqtt_qos: int = option(
        1, "how events are sent: 0 once or not, 1 once or more, 2 once (default: 1)", "0-2", least=0, most=2
    )
    mqtt_ca: str | None = option(None, "certificates to trust with mqtts:// (default: the system's)", "FILE")


def open_mqtt(options: MqttOptions, run: Run) -> Iterator[Sink]:
    check_options(options)
    if options.mqtt is not None:
        yield MqttSink(
            read_secret(options.mqtt),
            streams=tuple(run.sources),
            decisions=options.mqtt_decisions,
            follow_events=run.events,
            qos=options.mqtt_qos,
            ca_file=options.mqtt_ca,
            discovery_prefix=options.mqtt_discovery,
        )
