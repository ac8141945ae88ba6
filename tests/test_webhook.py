"""The webhook against a real HTTP server that fails, hangs, goes and returns: every event arrives, in order."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mqtt_broker import until

from vlf_edge import Event, VlfError, WebhookSink
from vlf_edge.backoff import Backoff
from vlf_edge.cli import main
from vlf_edge.runtime.sinks.disk_queue import DiskQueue
from vlf_edge.runtime.sinks.webhook import default_queue, signature

EVENT = Event("door", "wave", 12.5, None, 0.75, 7)
QUICK = Backoff(first_s=0.001, cap_s=0.01)


class Receiver:
    """An HTTP server. answers: what to answer to each of the next requests, a status or "hang"; then 204.
    got: [(path, headers, body)] of those answered with 204."""

    def __init__(self, port: int = 0):
        receiver = self
        self.answers: list = []
        self.got: list[tuple[str, dict, bytes]] = []
        self.asked = 0
        self.retry_after = ""
        self.let_go = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    return  # the client was killed between its header and its body: nothing was delivered
                receiver.asked += 1
                answer = receiver.answers.pop(0) if receiver.answers else 204
                if answer == "hang":
                    receiver.let_go.wait(60)
                    return
                if answer == 204:
                    receiver.got.append((self.path, dict(self.headers), body))
                self.send_response(answer)
                if receiver.retry_after:
                    self.send_header("Retry-After", receiver.retry_after)
                self.end_headers()

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address, daemon_threads = True, True

            def handle_error(self, request, address):
                pass  # clients that were killed

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def ids(self) -> list[int]:
        return [json.loads(body)["event"]["id"] for *_, body in list(self.got)]

    def close(self):
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def hook(tmp_path, receiver):
    made = []

    def make(**options):
        url = options.pop("url", f"http://127.0.0.1:{receiver.port}/hook/T0ken?key=S3cret")
        options = {"queue": tmp_path / "queue.sqlite", "backoff": QUICK, **options}
        made.append(WebhookSink(url, **options))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def send(sink, numbers):
    for number in numbers:
        sink.write_event(replace(EVENT, id=number))


def test_each_event_is_a_signed_post(hook, receiver):
    sink = hook(secret="k3y")
    send(sink, [7])
    until(lambda: sink.stats()["written"] == 1)
    (path, headers, body) = receiver.got[0]
    message = json.loads(body)
    assert path == "/hook/T0ken?key=S3cret" and headers["Content-Type"] == "application/json"
    assert message["event"]["label"] == "wave" and len(message["delivery"]) == 32
    assert headers["X-Vlf-Edge-Signature"] == signature("k3y", body)
    assert signature("key", b"The quick brown fox jumps over the lazy dog") == (
        "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
    )


def test_what_fails_is_sent_again_and_nothing_overtakes_it(hook, receiver, caplog):
    receiver.answers = [500, 503, 302, 429, 401, 404]
    sink = hook()
    send(sink, range(20))
    until(lambda: len(receiver.got) == 20)
    assert receiver.ids == list(range(20))
    until(lambda: sink.stats()["queued"] == 0)
    stats = sink.stats()
    assert (stats["written"], stats["failed"], stats["errors"], stats["state"]) == (20, 0, 6, "ok")
    assert caplog.text.count("is tried again") == 1 and "answers 500" in caplog.text


def test_pauses_grow_and_a_server_may_ask_for_longer_ones(hook, receiver):
    pauses_s = []
    receiver.answers, receiver.retry_after = [503] * 4, ""
    backoff = Backoff(first_s=1.0, cap_s=4.0, jitter=0.0)
    sink = hook(backoff=backoff, pause=pauses_s.append)
    send(sink, [1])
    until(lambda: sink.stats()["written"] == 1)
    assert pauses_s == [1.0, 2.0, 4.0, 4.0]
    receiver.answers, receiver.retry_after = [503], "120"
    send(sink, [2])
    until(lambda: sink.stats()["written"] == 2)
    receiver.answers, receiver.retry_after = [503], "999999999"
    send(sink, [3])
    until(lambda: sink.stats()["written"] == 3)
    assert pauses_s[4:] == [120.0, 3600.0]


def test_a_message_that_is_refused_does_not_hold_up_the_others(hook, receiver):
    receiver.answers = [204, 422, 204]
    sink = hook()
    send(sink, range(3))
    until(lambda: len(receiver.got) == 2)
    assert receiver.ids == [0, 2]
    until(lambda: sink.stats()["written"] == 2)
    assert sink.stats()["failed"] == 1 and "lacks events: 1 failed" in sink.health.losses()


def test_a_server_that_hangs_is_given_up_on_in_time(hook, receiver):
    receiver.answers = ["hang", "hang"]
    sink = hook(timeout_s=0.2)
    send(sink, [1, 2])
    until(lambda: sink.stats()["queued"] == 0)
    # On a busy machine an answer may come too late, and what was taken comes once more.
    assert [*dict.fromkeys(receiver.ids)] == [1, 2] and sink.stats()["errors"] >= 2


def test_a_server_that_answers_a_byte_now_and_then_is_too(hook, receiver, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def drip():
            client, _ = server.accept()
            with client:
                while not ended.is_set():
                    try:
                        client.send(b"H")
                    except OSError:
                        return
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        sink = hook(url=f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.2)
        send(sink, [1])
        until(lambda: sink.stats()["errors"] >= 1)
        ended.set()


def test_a_server_that_goes_and_returns_gets_the_rest(hook, receiver):
    sink = hook()
    send(sink, range(5))
    until(lambda: len(receiver.got) == 5)
    receiver.close()
    send(sink, range(5, 10))
    until(lambda: not sink.health.ok)
    back = Receiver(receiver.port)
    try:
        until(lambda: len(back.got) == 5)
        assert back.ids == [5, 6, 7, 8, 9]
        until(lambda: sink.health.ok and sink.stats()["queued"] == 0)
    finally:
        back.close()


def test_the_queue_is_bounded_and_what_it_loses_is_counted(hook, receiver):
    receiver.answers = ["hang"]
    sink = hook(capacity=5, timeout_s=20.0)
    send(sink, range(12))
    until(lambda: receiver.asked == 1)
    assert sink.stats()["dropped"] == 7 and sink.stats()["queued"] == 5


def test_what_is_left_is_sent_by_the_next_run(hook, receiver, caplog):
    receiver.answers = ["hang"]
    sink = hook(timeout_s=30.0)
    send(sink, range(5))
    until(lambda: receiver.asked == 1)
    began_s = time.monotonic()
    sink.close()
    assert time.monotonic() - began_s < 20 and "5 events wait in" in caplog.text
    send(hook(), [5])
    until(lambda: len(receiver.got) == 6)
    assert receiver.ids == [0, 1, 2, 3, 4, 5]


SENDER = """
import sys
from vlf_edge import Event, WebhookSink
first = int(sys.argv[3])
sink = WebhookSink(sys.argv[1], queue=sys.argv[2])
for number in range(first, first + 60):
    sink.write_event(Event("door", "wave", 0.0, None, 0.5, number))
    print(number, flush=True)
input()
"""


def test_events_survive_kills_at_any_moment(receiver, tmp_path, hook):
    """What was put into the queue arrives, in order, at least once; only what was on its way at a kill comes twice."""
    told = 0
    for kill_at in (0, 5, 31):
        words = [
            sys.executable,
            "-c",
            SENDER,
            f"http://127.0.0.1:{receiver.port}/",
            tmp_path / "queue.sqlite",
            str(told),
        ]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(kill_at + 1):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        told += kill_at + 1 + len(process.communicate()[0].splitlines())
    sink = hook()
    until(lambda: sink.stats()["queued"] == 0)
    distinct = list(dict.fromkeys(receiver.ids))
    assert distinct == sorted(distinct) and set(distinct) >= set(range(told)) and set(distinct) <= set(range(told + 3))
    deliveries = [json.loads(body)["delivery"] for *_, body in receiver.got]
    assert len(deliveries) - len(set(deliveries)) <= 3, "one for each kill"


def test_a_queue_belongs_to_one_program(tmp_path):
    queue = DiskQueue(tmp_path / "q.sqlite", 10)
    with pytest.raises(VlfError, match="another program is using it"):
        DiskQueue(tmp_path / "q.sqlite", 10)
    queue.close()
    queue.close()
    DiskQueue(tmp_path / "q.sqlite", 10).close()
    assert (tmp_path / "q.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_damaged_queue_is_set_aside(tmp_path, caplog):
    (tmp_path / "q.sqlite").write_bytes(b"no database at all" * 100)
    queue = DiskQueue(tmp_path / "q.sqlite", 10)
    queue.put("a")
    assert queue.oldest()[1] == "a" and (tmp_path / "q.sqlite.damaged").exists() and "is damaged" in caplog.text
    queue.close()


def test_a_full_disk_is_an_error_of_the_write_alone(tmp_path):
    queue = DiskQueue(tmp_path / "q.sqlite", 10**6)
    queue._db.execute("PRAGMA max_page_count = 4")  # as much as there is room for
    with pytest.raises(OSError, match="is full"):
        for _ in range(1000):
            queue.put("x" * 500)
    kept = len(queue)
    assert kept and queue.oldest()[0] == 1
    queue._db.execute("PRAGMA max_page_count = 1000")
    queue.put("y")
    assert len(queue) == kept + 1
    queue.close()


@pytest.mark.parametrize("url", ["ftp://host/S3cret", "https://", "http://host:x/S3cret", "http://h/S3c ret", "S3cret"])
def test_refusals_hold_no_secret(url, tmp_path):
    with pytest.raises(VlfError, match="the address of the webhook") as caught:
        WebhookSink(url, queue=tmp_path / "q")
    assert "S3c" not in str(caught.value)


def test_secrets_are_in_no_message(hook, receiver, caplog):
    caplog.set_level(logging.DEBUG)
    receiver.answers = [500]
    sink = hook(url=f"http://user:passw0rd@127.0.0.1:{receiver.port}/hook/T0ken?key=S3cret", secret="k3y!")
    send(sink, [1])
    until(lambda: sink.stats()["written"] == 1)
    assert receiver.got[0][1]["Authorization"] == "Basic dXNlcjpwYXNzdzByZA=="
    post = sink._post
    assert post.without_secrets(OSError("GET /hook/T0ken?key=S3cret by passw0rd")) == "GET /***?*** by ***"
    sink.close()
    told = caplog.text + json.dumps(sink.stats()) + sink.name
    assert not any(secret in told for secret in ("passw0rd", "T0ken", "S3cret", "k3y!"))


def test_queues_lie_in_the_folder_for_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = default_queue("http://a/"), default_queue("http://b/")
    assert one != other and one.parent == tmp_path / "vlf_edge"


def test_the_command_line(toy_plan, receiver, tmp_path, capsys):
    words = ["run", str(toy_plan.path), "test://motion?seconds=3", "--backend", "fake"]
    assert main([*words, "--webhook", f"http://127.0.0.1:{receiver.port}/"]) == 1
    assert "--webhook is for events, and none are asked for; add --events" in capsys.readouterr().err
