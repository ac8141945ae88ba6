"""The MQTT sink against a real broker: what is published, and what becomes of it when broker or process are killed."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt_broker import Listener, MqttBroker, free_port, until

from vlf_edge import BackendMissing, Event, MqttSink, Prediction, ThreadedSink, VlfError
from vlf_edge.cli import main
from vlf_edge.credentials import split_credentials
from vlf_edge.runtime.sinks.home_assistant import discovery
from vlf_edge.runtime.sinks.mqtt import Broker

BEGUN = Event("door", "wave", 12.5, None, 0.75, 7)
ENDED = replace(BEGUN, t_end_s=14.25)
PASSWORD = "p@ss:/wo#rd"


def decided(label="wave", stream="door"):
    return Prediction("ok", 0.0, 1.0, 3, 5.0, label, 0.9, topk=((label, 0.9),), stream=stream)


def silent(stream="door"):
    return Prediction("no_signal", 0.0, 1.0, -1, 0.0, stream=stream)


@pytest.fixture
def broker(tmp_path):
    with MqttBroker(tmp_path) as broker:
        yield broker


def test_states_and_events(broker):
    with Listener(broker.port) as listener:
        sink = MqttSink(f"mqtt://localhost:{broker.port}/home/vlf", streams=("door", "yard #2"), decisions=True)
        until(lambda: len(listener.kept) == 3)
        assert listener.kept == {
            "home/vlf/availability": "online", "home/vlf/door/action": "none", "home/vlf/yard_2/action": "none",
        }  # fmt: skip
        sink.write(None, decided())
        sink.write_event(BEGUN)
        until(lambda: listener.kept["home/vlf/door/action"] == "wave")
        with Listener(broker.port) as late:  # who comes later is told what the broker keeps, and no event
            until(lambda: len(late.kept) == 4)
            assert late.kept["home/vlf/door/state"] == "ok" and all(retained for *_, retained in late.heard)
        for prediction, action in ((silent(), "unknown"), (decided(), "wave")):
            sink.write(None, prediction)
            until(lambda: listener.kept["home/vlf/door/action"] == action)  # noqa: B023
        sink.write_event(ENDED)
        until(lambda: listener.kept["home/vlf/door/action"] == "none")
        sink.write(None, decided(stream="yard_2"))
        sink.write(None, silent())
        until(lambda: listener.kept["home/vlf/door/action"] == "unknown")
        sink.close()
        sink.close()
        until(lambda: listener.kept["home/vlf/availability"] == "offline")
        assert listener.kept["home/vlf/door/state"] == "no_signal"
        assert [(e["id"], e["t_end_s"]) for e in listener.json_of("home/vlf/door/event")] == [(7, None), (7, 14.25)]
        assert [d["label"] for d in listener.json_of("home/vlf/door/decision")] == ["wave", None, "wave", None]
        assert listener.kept["home/vlf/yard_2_2/state"] == "ok", "two streams never share a topic"
        stats = sink.stats()
        assert (stats["state"], stats["dropped"], stats["unit"]) == ("ok", 0, "messages")
        assert stats["written"] == len(listener.heard)


def test_decisions_are_the_action_where_no_events_are_made(broker):
    with Listener(broker.port) as listener:
        with MqttSink(f"mqtt://localhost:{broker.port}", follow_events=False) as sink:
            until(lambda: "vlf_edge/availability" in listener.kept)
            for label in ("wave", "wave", "still"):
                sink.write(None, decided(label))
        until(lambda: listener.kept["vlf_edge/availability"] == "offline")
        assert [p for topic, p, _ in listener.heard if topic == "vlf_edge/door/action"] == ["unknown", "wave", "still"]


def test_a_broker_that_is_killed_and_comes_back_gets_every_event(broker, caplog):
    with Listener(broker.port) as listener:
        sink = MqttSink(f"mqtt://localhost:{broker.port}", streams=("door",))
        until(lambda: "vlf_edge/availability" in listener.kept)
        sink.write(None, decided())
        broker.kill()
        until(lambda: not sink.health.ok)
        for number in range(50):
            sink.write_event(replace(BEGUN, id=number, label=f"wave {number}"))
        listener.kept.clear()
        broker.start()
        until(lambda: len(listener.json_of("vlf_edge/door/event")) >= 50)
        until(lambda: len(listener.kept) == 4)
        assert [event["id"] for event in listener.json_of("vlf_edge/door/event")] == list(range(50))
        assert listener.kept["vlf_edge/availability"] == "online" and listener.kept["vlf_edge/door/state"] == "ok"
        assert listener.kept["vlf_edge/door/action"] == "wave 49", "the newest, and no older one after it"
        assert sink.health.ok and sink.stats()["dropped"] == 0
        sink.close()
    said = [record.message for record in caplog.records if record.name.startswith("vlf_edge")]
    assert len(said) == 2 and "was lost" in said[0] and "works again" in said[1]


def test_a_broker_that_hangs_gets_every_event_when_it_goes_on(broker):
    with Listener(broker.port) as listener:
        sink = MqttSink(f"mqtt://localhost:{broker.port}", streams=("door",))
        until(lambda: "vlf_edge/availability" in listener.kept)
        broker.send_signal(signal.SIGSTOP)
        try:
            for number in range(200):
                sink.write_event(replace(BEGUN, id=number))
        finally:
            broker.send_signal(signal.SIGCONT)
        until(lambda: len(listener.json_of("vlf_edge/door/event")) == 200)
        assert [event["id"] for event in listener.json_of("vlf_edge/door/event")] == list(range(200))
        sink.close()


def test_while_there_is_no_broker_a_bounded_number_of_events_waits(caplog):
    pytest.importorskip("paho.mqtt.client")
    sink = ThreadedSink(MqttSink(f"mqtt://localhost:{free_port()}", queued=10), drop_oldest=False)
    until(lambda: sink.stats()["errors"] > 0)
    for number in range(25):
        sink.write_event(replace(BEGUN, id=number))
    sink.close()
    stats = sink.stats()
    assert (stats["dropped"], stats["written"], stats["missed"], stats["state"]) == (25, 0, 0, "failing")
    assert "lacks messages: 25 were dropped" in caplog.text


def test_passwords_get_in_and_wrong_ones_are_told_without_being_told(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with MqttBroker(tmp_path, "us@er", PASSWORD) as broker, Listener(broker.port, "us@er", PASSWORD) as listener:
        with MqttSink(f"mqtt://us@er:{PASSWORD}@localhost:{broker.port}".replace("us@er", "us%40er")) as sink:
            until(lambda: "vlf_edge/availability" in listener.kept)
            assert PASSWORD not in repr(vars(sink)) and sink.health.ok
        until(lambda: listener.kept["vlf_edge/availability"] == "offline")
        listener.kept.clear()
        with MqttSink(f"mqtt://us%40er:{PASSWORD}x@localhost:{broker.port}") as sink:
            until(lambda: not sink.health.ok)
            assert "Not authorized" in sink.stats()["last_error"] and not listener.kept
    assert "the broker refuses the connection: Not authorized" in caplog.text and PASSWORD not in caplog.text


def test_over_tls(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    with MqttBroker(tmp_path, tls=(certificate, key)) as broker:
        with Listener(broker.port, ca=certificate) as listener:
            with MqttSink(f"mqtts://localhost:{broker.port}", ca_file=str(certificate)):
                until(lambda: listener.kept.get("vlf_edge/availability") == "online")
        with MqttSink(f"mqtts://localhost:{broker.port}") as sink:
            until(lambda: not sink.health.ok)  # a certificate that nobody vouches for


def test_home_assistant_finds_every_stream(broker):
    with Listener(broker.port) as listener:
        with MqttSink(f"mqtt://localhost:{broker.port}", streams=("Tür 1",), discovery_prefix="homeassistant") as sink:
            sink.write(None, decided())
            until(lambda: len([topic for topic in listener.kept if topic.startswith("homeassistant/")]) == 4)
    configs = {t: json.loads(p) for t, p in listener.kept.items() if t.startswith("homeassistant/")}
    assert len({config["unique_id"] for config in configs.values()}) == 4
    for topic, config in configs.items():
        prefix, component, object_id, end = topic.split("/")
        assert (prefix, end, object_id) == ("homeassistant", "config", config["unique_id"])
        assert component in ("sensor", "binary_sensor") and set(object_id) <= set(ID_CHARACTERS)
        assert config["state_topic"] in listener.kept or config["state_topic"] == "vlf_edge/Tür_1/state"
        assert config["availability_topic"] == "vlf_edge/availability"
        assert config["device"]["identifiers"] == ["vlf_edge"] and config["origin"]["name"] == "vlf_edge"


ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab/_-#é", min_size=1, max_size=4), min_size=1, max_size=6, unique=True))
def test_entities_of_different_topics_are_different(topics):
    found = [topic for stream in topics for topic in discovery("ha", stream, f"p/{stream}", "p/availability", "1")]
    assert all(set(topic.split("/")[2]) <= set(ID_CHARACTERS) for topic in found)


PUBLISHER = """
import sys, time
from vlf_edge import MqttSink
sink = MqttSink(sys.argv[1], streams=("door",))
time.sleep(600)
"""


def test_a_process_that_is_killed_leaves_its_will(broker):
    with Listener(broker.port) as listener:
        process = subprocess.Popen([sys.executable, "-c", PUBLISHER, f"mqtt://localhost:{broker.port}"])
        try:
            until(lambda: listener.kept.get("vlf_edge/availability") == "online")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        until(lambda: listener.kept["vlf_edge/availability"] == "offline")


@pytest.mark.parametrize(
    "url, why",
    [
        ("http://host", "names no host"),
        (f"mqtt://user:{PASSWORD}@", "names no host"),
        (f"mqtt://user:{PASSWORD}@host:port", "no valid port"),
        (f"mqtt://user:{PASSWORD}@host/a/#", "holds"),
    ],
)
def test_refusals_hold_no_password(url, why):
    with pytest.raises(VlfError, match=why) as caught:
        Broker.parse(url)
    assert PASSWORD not in str(caught.value) and "wo#rd" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_characters="%", exclude_categories=["Cs"])), st.text("abc:/@#?", min_size=1))
def test_passwords_may_hold_anything(password, tail):
    url = f"mqtt://user:{password}{tail}@host:1/prefix"
    assert split_credentials(url) == ("mqtt://host:1/prefix", "user", password + tail)
    assert split_credentials("mqtt://user:a%40b@host") == ("mqtt://host", "user", "a@b")


def test_without_paho_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(BackendMissing, match=r"pip install 'vlf_edge\[mqtt\]'"):
        MqttSink("mqtt://localhost")


def test_the_command_line_reads_the_address_from_a_file(toy_plan, broker, tmp_path, capsys):
    secret = tmp_path / "address"
    secret.write_text(f"mqtt://localhost:{broker.port}/cellar\n")
    words = ["run", str(toy_plan.path), "test://motion?seconds=3", "--backend", "fake", "--mqtt-decisions"]
    with Listener(broker.port) as listener:
        assert main([*words, "--mqtt", f"@{secret}", "--mqtt-discovery", "homeassistant"]) == 0
        until(lambda: listener.kept.get("cellar/availability") == "offline")
    assert listener.kept["cellar/main/state"] == "ok"
    topics = {topic.split("/")[1] for topic in listener.kept if topic.startswith("cellar/")}
    assert topics == {"main", "availability"} and len(listener.kept) == 6
    assert main([*words, "--mqtt", "@/none"]) == 1 and main([*words, "--mqtt", "x", "--mqtt-qos", "3"]) == 1
    said = capsys.readouterr().err
    assert "cannot read the secret in /none" in said and "--mqtt-qos is 3; expected from 0 to 2" in said
