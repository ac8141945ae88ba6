"""The page's board, its server and its interface; what a browser makes of it is test_page.py's, what can be
asked for there test_lesson_page.py's."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import page_scenes as scenes
import pytest
from clocks import SetClock
from hypothesis import given
from hypothesis import strategies as st
from page_scenes import serving
from patient import VLF_EDGE
from test_front_door import run_without

from vlf_edge import Frame, Runtime, VlfError
from vlf_edge.cli import main, parser
from vlf_edge.commands.page_options import open_page
from vlf_edge.runtime import PrintSink
from vlf_edge.serve import Board, PageServer, PageSink
from vlf_edge.serve.access import Access, make_token, read_token
from vlf_edge.serve.board import lost
from vlf_edge.serve.event_log import EventLog
from vlf_edge.serve.pictures import Pictures, encode_jpeg
from vlf_edge.serve.server import parse_address
from vlf_edge.types import Event

TOKEN = "correct-horse-battery-staple"


def frame(stream: str, seq: int, captured_s: float = 0.0, size: tuple[int, int] = (48, 64)) -> Frame:
    return Frame(np.full((*size, 3), seq % 256, np.uint8), seq / 4, seq, captured_s, stream=stream)


def event(number: int, end_s: float | None = None, stream: str = "door", label: str = "nod") -> Event:
    return Event(stream, label, float(number), end_s, 0.8, number)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def board(clock) -> Board:
    return Board({"door": True, "film.mp4": False}, clock=clock, wall=lambda: clock.now_s + 1e9)


class Answer:
    def __init__(self, reply: http.client.HTTPResponse):
        self.status, self.headers, self.body = reply.status, reply.headers, reply.read()

    def json(self):
        return json.loads(self.body)


def ask(server: PageServer, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())


@contextlib.contextmanager
def following(server: PageServer, path: str, **headers: str):
    """An answer that never ends, to be read from."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        yield connection.getresponse()


def told(reply: http.client.HTTPResponse, count: int) -> list[tuple[str, dict]]:
    """The next server-sent events: (id, data)."""
    found: list[tuple[str, dict]] = []
    fields: dict[str, str] = {}
    while len(found) < count:
        line = reply.readline().decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            found.append((fields["id"], json.loads(fields["data"])))
            fields = {}
    return found


# The board


def test_a_stream_waits_then_shows_the_newest_and_since_when(board, clock):
    waiting, film = board.state()["streams"]
    assert (waiting["state"], waiting["frame_s"], waiting["label"]) == ("waiting", None, None)
    assert (waiting["live"], film["live"]) == (True, False)
    for seq in range(8):
        clock.now_s += 0.25
        board.write(frame("door", seq, clock.now_s), scenes.prediction("door", seq, 0, "ok" if seq > 2 else "warming"))
    shown = board.state()["streams"][0]
    assert shown["state"] == "ok" and shown["since_s"] == 1e9 + 1001, "the fourth came after a second"
    assert (shown["picture"], shown["width_px"], shown["height_px"], shown["frame_s"]) == (8, 64, 48, 1e9 + 1002)
    assert shown["topk"][0] == [shown["label"], shown["score"]] and len(shown["decided"]) == 8
    assert [label for label, _ in shown["decided"][:3]] == [None] * 3
    json.dumps(board.state(), allow_nan=False)


def test_without_a_signal_nothing_is_shown_as_new(board, clock):
    board.write(frame("door", 0, clock.now_s), scenes.prediction("door", 0))
    clock.now_s += 7
    board.write(None, scenes.prediction("door", -1, 0, "no_signal"))
    shown = board.state()["streams"][0]
    assert (shown["state"], shown["label"], shown["picture"]) == ("no_signal", None, 1)
    assert shown["frame_s"] == 1e9 + 1000 and shown["since_s"] == 1e9 + 1007


def test_memory_is_bounded(clock):
    board = Board({"door": True}, most_events=20, clock=clock)
    for number in range(300):
        board.write(frame("door", number), scenes.prediction("door", number))
        board.write_event(event(number))
    assert len(board.state()["streams"][0]["decided"]) == 40
    found, _ = board.events_since(limit=500)
    assert [one["id"] for _, one in found] == list(range(280, 300))


def test_times_of_events_are_ours_where_the_camera_is_live(board, clock):
    board.write(frame("door", 8, captured_s=999.5), None)  # taken half a second ago, at 2 s of the camera's clock
    board.write(frame("film.mp4", 8, captured_s=999.5), None)
    board.write_event(event(1, 1.75))
    board.write_event(event(1, 1.75, "film.mp4"))
    (_, live), (_, film) = board.events_since()[0]
    assert live["began_s"] == 1e9 + 998.5 and film["began_s"] is None
    assert (film["t_start_s"], film["t_end_s"]) == (1.0, 1.75)
    board.write(frame("door", 0, captured_s=1000.0), None)  # the camera was away, and its clock begins anew
    board.write_event(event(1, 1.9))
    (_, film), (_, live) = board.events_since()[0]
    assert (live["t_end_s"], live["began_s"]) == (1.9, 1e9 + 998.5)


def test_health_names_what_is_wrong(board, clock):
    clock.now_s += 9
    assert board.health() is None, "it may take its time to begin"
    clock.now_s += 2
    assert board.health() == "no stream gives frames, for 11 s"
    board.take_figures({"streams": {"door": {"last_error": "no route"}, "film.mp4": {}}})
    assert board.health() == "no stream gives frames, for 11 s (door: no route)"
    board.write(frame("door", 0), scenes.prediction("door", 0, 0, "failed"))
    assert board.health() == "the model failed: its answer is no number on door"
    board.write(frame("door", 1), scenes.prediction("door", 1))
    assert board.health() is None, "one stream is enough"


def test_a_camera_that_is_away_says_why_and_one_that_is_over_shows_no_decision(clock):
    board = scenes.board(3)
    names = scenes.NAMES[:3]
    figures = scenes.figures(names, away=1)
    figures["streams"][names[2]] |= {"state": "ended", "state_for_s": 5.0}
    board.take_figures(figures)
    board.write(None, scenes.prediction(names[1], -1, 0, "no_signal"))
    state = board.state()
    here, away, over = state["streams"]
    assert (here["state"], here["reason"]) == ("ok", None)
    assert (away["state"], away["reason"], away["reconnects"]) == (
        "no_signal",
        scenes.REFUSED,
        2,
    )
    assert (over["state"], over["label"], over["topk"]) == ("ended", None, [])
    assert 4.9 < state["now_s"] - over["since_s"] < 6
    figures["streams"][names[0]] |= {"state": "failed", "last_error": "it is gone"}
    board.take_figures(figures)
    assert (board.state()["streams"][0]["state"], board.state()["streams"][0]["reason"]) == ("given_up", "it is gone")


def test_frames_that_come_in_while_nothing_comes_out_are_a_hang(board, clock):
    board.write(frame("door", 0), scenes.prediction("door", 0))
    for second in range(15):
        board.take_figures({"counts": {"captured": 30 * second}})
        board.write(None, scenes.prediction("film.mp4", -1, 0, "no_signal"))  # what tells of no frames is no way out
        clock.now_s += 1
    assert "no decision came out: the engine hangs" in board.health()
    board.write(frame("door", 1), None)
    board.take_figures({"counts": {"captured": 450}})
    assert board.health() is None


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=60))
def test_whoever_follows_by_cursors_has_what_the_log_has(steps):
    log, copy, cursor = EventLog(most=50), {}, ""
    for number, ends, looks in steps:
        log.note(event(number, number + 2.0 if ends else None), None, 0.0)
        if looks:
            copy |= {noted.event.id: noted.event for noted in log.newest(after=log.seen(cursor) if cursor else 0)}
            cursor = log.cursor
    copy |= {noted.event.id: noted.event for noted in log.newest(after=log.seen(cursor) if cursor else 0)}
    assert copy == {noted.event.id: noted.event for noted in log.newest()}


def test_a_cursor_of_an_earlier_run_has_seen_nothing():
    log = EventLog(run="run2")
    log.note(event(1), None, 0.0)
    assert (log.seen("run1-99"), log.seen("run2-1"), log.seen("run2-99")) == (0, 1, 1)
    with pytest.raises(ValueError, match="is no cursor; expected one that was given, such as run2-1"):
        log.seen("yesterday")


def test_a_cursor_is_no_time_even_where_it_looks_like_a_number(board):
    board.events = EventLog(run="1234567e")  # 1234567e-1 is a number
    board.write_event(event(1))
    board.write_event(event(2))
    assert [one["id"] for _, one in board.events_since("1234567e-1")[0]] == [2]


def test_a_picture_is_encoded_once_for_all_and_only_when_asked_for(board, clock):
    encoded = []
    pictures = Pictures(board, lambda image: encoded.append(image) or b"jpeg %d" % image[0, 0, 0], clock=clock)
    assert pictures.newest("door") is None and not encoded
    for seq in range(5):
        board.write(frame("door", seq), None)
    assert [pictures.newest("door") for _ in range(3)] == [(5, b"jpeg 4")] * 3 and len(encoded) == 1
    board.write(frame("door", 5), None)
    assert pictures.newest("door") == (5, b"jpeg 4"), "not yet: there is a highest rate"
    clock.now_s += 1 / 12
    assert pictures.newest("door") == (6, b"jpeg 5") and len(encoded) == 2
    with pytest.raises(KeyError):
        pictures.newest("window")


def test_all_pictures_together_take_a_share_of_the_time(clock):
    names = [f"camera {n}" for n in range(6)]
    board, encoded = Board(dict.fromkeys(names, True), clock=clock), []

    def slow(image: np.ndarray) -> bytes:
        clock.now_s += 0.05
        encoded.append(clock.now_s)
        return b""

    pictures = Pictures(board, slow, clock=clock)
    for seq in range(400):
        for name in names:
            board.write(frame(name, seq), None)
            pictures.newest(name)
        clock.now_s += 0.02
    spent = 0.05 * (len(encoded) - len(names)) / (encoded[-1] - encoded[0])
    assert 0.15 < spent < 0.3


@pytest.mark.parametrize("size, expected", [((1080, 1920), (540, 960)), ((2000, 10), (960, 5)), ((48, 64), (48, 64))])
def test_a_picture_is_no_larger_than_the_page_shows_it(size, expected):
    import cv2

    jpeg = encode_jpeg(np.zeros((*size, 3), np.uint8))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2] == expected


# Who may look


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "localhost", "[::1]:8080", "192.168.1.7:8080", "cam.lan:80", "Localhost"]
)
def test_this_machine_goes_by_its_names_and_addresses(host):
    assert Access(None, 80, ["cam.lan"]).knows_host(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[evil]"]
)
def test_a_strangers_name_for_this_machine_is_refused(board, host):
    assert not Access(None, 80).knows_host(host)
    with serving(board) as server:
        assert ask(server, "/", Host=host).status == 421


def test_without_the_token_nothing_is_told(board, tmp_path):
    board.write(frame("door", 0), scenes.prediction("door", 0))
    paths = [
        "/api/state",
        "/api/events",
        "/healthz",
        "/metrics",
        "/api/streams/door/picture",
        "/api/streams/door/video",
    ]
    with serving(board, token=TOKEN) as server:
        for path in [*paths, "/api/clips/door/1", "/docs", "/api/../page.js/../api/state"]:
            for header in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer caf\u00e9" + TOKEN):
                answer = ask(server, path, Authorization=header)
                assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer", path
                assert "door" not in answer.body.decode()
        for path in paths[:-1]:
            assert ask(server, path, Authorization=f"Bearer {TOKEN}").status == 200, path
        assert ask(server, "/").status == ask(server, "/page.js").status == ask(server, "/page.css").status == 200


def test_a_browser_logs_in_and_out_by_a_cookie_that_is_not_the_token(board):
    with serving(board, token=TOKEN) as server:
        assert ask(server, "/login", "POST", "token=wrong").status == 401
        assert ask(server, "/login", "POST", "token=" + "x" * 5000).status == 413
        cookie = ask(server, "/login", "POST", f"token={TOKEN}").headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        kept = cookie.split(";")[0]
        assert ask(server, "/api/state", Cookie=f"other=1; {kept}").status == 200
        assert ask(server, "/api/state", Cookie=kept[:-1]).status == 401
        assert ask(server, "/api/state", Authorization=f"Bearer {kept.split('=')[1]}").status == 401
        assert "Max-Age=0" in ask(server, "/logout", "POST").headers["set-cookie"]


def test_tokens_are_compared_in_constant_time(monkeypatch):
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    access = Access(TOKEN, 80)
    assert access.opens(TOKEN) and not access.opens("") and not access.allows("", "vlf_edge_80=x")
    assert len(compared) == 3


def test_every_answer_binds_the_browser(board):
    with serving(board, token=TOKEN) as server:
        for path, status in (("/", 200), ("/page.js", 200), ("/healthz", 401), ("/login", 405)):
            answer = ask(server, path)
            assert answer.status == status
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert ask(server, "/page.js", Sec_Fetch_Site="cross-site").status == 403
        assert ask(server, "/", Sec_Fetch_Site="cross-site").status == 200, "a link from elsewhere"


def test_the_page_is_part_of_the_package():
    root = Path(scenes.__file__).parents[1]
    assert '"vlf_edge.serve.page" = ["*.html", "*.css", "*.js"]' in (root / "pyproject.toml").read_text()
    assert '"serve.page"' in (root / "setup.py").read_text()


def test_the_page_takes_nothing_from_elsewhere_and_runs_nothing_inline():
    page = Path(scenes.__file__).parents[1] / "vlf_edge" / "serve" / "page"
    html, script = (page / "index.html").read_text(), "".join(path.read_text() for path in page.glob("*.js"))
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "style=" not in html and not re.search(r"<[^>]* on\w+=", html) and "<script>" not in html
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"):
        assert forbidden not in script


# The interface


def test_pictures_are_asked_for_one_by_one(board):
    board = scenes.board(2, steps=2)
    with serving(board) as server:
        name = quote(scenes.NAMES[1], safe="")
        first = ask(server, f"/api/streams/{name}/picture")
        assert first.headers["content-type"] == "image/jpeg" and first.body[:2] == b"\xff\xd8"
        assert ask(server, f"/api/streams/{name}/picture?after={first.headers['x-picture']}").status == 204
        none = ask(server, "/api/streams/window/picture")
        assert none.status == 404 and none.json() == {"error": "there is no stream 'window'"}
        assert ask(server, "/api/streams/window/video").status == 404


def test_motion_jpeg_is_for_other_programs():
    with serving(scenes.board(1, steps=1)) as server, following(server, "/api/streams/front%20door/video") as reply:
        kind, boundary = reply.headers["content-type"].split("; boundary=")
        assert kind == "multipart/x-mixed-replace" and reply.readline() == f"--{boundary}\r\n".encode()
        headers = dict(reply.readline().decode().strip().split(": ") for _ in range(2))
        assert reply.readline() == b"\r\n"
        assert reply.read(int(headers["content-length"]))[-2:] == b"\xff\xd9"


def test_events_are_filtered_and_continued(board):
    for number in range(6):
        board.write_event(event(number, label=("nod", "wave")[number % 2], stream=("door", "film.mp4")[number // 3]))
    with serving(board) as server:
        everything = ask(server, "/api/events").json()
        assert [one["id"] for one in everything["events"]] == list(range(6))
        for query, ids in (
            ("limit=2", [4, 5]), ("stream=door", [0, 1, 2]), ("label=wave", [1, 3, 5]), ("stream=door&label=wave", [1]),
            (f"since={everything['cursor']}", []), ("since=0", list(range(6))), ("since=99999999999", []),
        ):  # fmt: skip
            assert [one["id"] for one in ask(server, f"/api/events?{query}").json()["events"]] == ids, query
        board.write_event(event(2, 2.5))
        news = ask(server, f"/api/events?since={everything['cursor']}").json()
        assert [(one["id"], one["t_end_s"]) for one in news["events"]] == [(2, 2.5)]
        for query in ("limit=0", "limit=x", "since=yesterday", "limit=100000"):
            assert ask(server, f"/api/events?{query}").status == 400, query


def test_events_are_told_as_they_come_and_resumed(board):
    board.write_event(event(1))
    with serving(board) as server:
        with following(server, "/api/events?label=nod", Accept="text/event-stream") as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            [(first, one)] = told(reply, 1)
            board.write_event(event(2, label="wave"))
            board.write_event(event(1, 4.0))
            [(_, ended)] = told(reply, 1)
            assert (one["t_end_s"], ended["t_end_s"]) == (None, 4.0)
        with following(server, "/api/events", Accept="text/event-stream", Last_Event_ID=first) as reply:
            assert [one["id"] for _, one in told(reply, 2)] == [2, 1]


def test_clips_are_served_in_ranges(clock, tmp_path):
    path = tmp_path / "clip.webm"
    path.write_bytes(bytes(range(200)))
    board = Board(
        {"a/b": True},
        clip_of=lambda stream, number: {("a/b", 3): path, ("a/b", 4): tmp_path / "gone"}.get((stream, number)),
    )
    for number in (3, 4, 5):
        board.write_event(event(number, stream="a/b"))
    with serving(board) as server:
        clips = [one["clip"] for one in ask(server, "/api/events").json()["events"]]
        assert clips == ["/api/clips/a%2Fb/3", None, None]
        whole = ask(server, clips[0])
        assert whole.body == path.read_bytes() and whole.headers["content-type"] == "video/webm"
        part = ask(server, clips[0], Range="bytes=10-19")
        assert (part.status, part.body, part.headers["content-range"]) == (206, bytes(range(10, 20)), "bytes 10-19/200")
        assert ask(server, "/api/clips/a%2Fb/4").status == 404


def test_an_event_is_told_again_when_its_clip_is_complete(clock, tmp_path):
    path = tmp_path / "clip.mp4"
    board = Board({"door": True}, clip_of=lambda stream, number: path, clock=clock)
    board.write_event(event(1))
    board.write_event(event(1, 3.0))
    board.find_clips()
    [(_, told)], cursor = board.events_since()
    assert told["clip"] is None
    path.write_bytes(b"video")
    board.find_clips()
    [(_, told)], cursor = board.events_since(cursor)
    assert (told["t_end_s"], told["clip"]) == (3.0, "/api/clips/door/1")
    board.find_clips()
    assert board.events_since(cursor)[0] == [], "once"
    board.write_event(event(2, 4.0, stream="dock"))
    path.unlink()
    clock.now_s += 121
    board.find_clips()
    path.write_bytes(b"video")
    board.find_clips()
    assert not board._clipless, "what never comes is not waited for"


def test_losses_are_told_apart_as_far_as_they_are_counted():
    assert lost({"captured": 9, "dropped": 2, "failed": 1}) == {"overload": 2, "failed": 1}
    assert lost({"dropped": 3, "dropped_late": 1, "dropped_overload": 2, "stale": 4}) == {
        "late": 1,
        "overload": 2,
        "stale": 4,
    }


def test_metrics_keep_the_conventions(board):
    from prometheus_client.parser import text_string_to_metric_families

    made = scenes.board(3, away=True)
    with serving(made) as server:
        answer = ask(server, "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families.values() for s in family.samples}
    dock = ("stream", scenes.NAMES[1])
    assert samples["vlf_edge_lost_total", ("cause", "overload"), dock] == 3
    assert samples["vlf_edge_lost_total", ("cause", "undelivered"), dock] == 2
    assert samples["vlf_edge_stream_state", ("state", "no_signal"), dock] == 1
    assert samples["vlf_edge_stream_state", ("state", "ok"), dock] == 0
    assert samples["vlf_edge_stage_latency_seconds", ("quantile", "0.95"), ("stage", "decision")] == 0.0072
    assert samples["vlf_edge_sink_ok", ("sink", "https://hooks.lan/vlf")] == 0
    assert samples["vlf_edge_sink_lost_total", ("cause", "failed"), ("sink", "https://hooks.lan/vlf")] == 4
    assert samples["vlf_edge_energy_joules_total", ("meter", "package")] == 93.5
    assert samples["vlf_edge_stream_reconnects_total", dock] == 2
    assert samples[("vlf_edge_healthy",)] == 1
    [plan] = (
        families["vlf_edge_plan_info"].samples
        if "vlf_edge_plan_info" in families
        else families["vlf_edge_plan"].samples
    )
    assert plan.labels["precision"] == "int8" and plan.labels["backend"] == "openvino"
    assert all(name.startswith(("vlf_edge_", "process_")) for name in families)
    assert all(family.documentation for family in families.values())


def test_healthz_says_why(board, clock):
    with serving(board) as server:
        assert (ask(server, "/healthz").status, ask(server, "/healthz").json()["ok"]) == (200, True)
        clock.now_s += 60
        sick = ask(server, "/healthz")
        assert (sick.status, sick.json()) == (503, {"ok": False, "reason": "no stream gives frames, for 60 s"})
        state = ask(server, "/api/state").json()
        assert state["health"]["ok"] is False and state["token_needed"] is False


def test_figures_come_from_the_run_and_a_failing_run_does_not_end_the_page(board):
    looked = threading.Semaphore(0)

    def stats():
        looked.release()
        raise RuntimeError("the engines are closed")

    with serving(board, figures=stats) as server:
        assert looked.acquire(timeout=240)
        assert ask(server, "/api/state").status == 200


# Viewers


def test_a_viewer_that_never_reads_holds_up_nobody(clock):
    noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), np.uint8)
    board = Board({"door": True})
    with serving(board) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(b"GET /api/streams/door/video HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for seq in range(2000):
            board.write(Frame(noise, seq / 30, seq, 0.0, stream="door"), scenes.prediction("door", seq))
            if seq % 200 == 0:  # others see it all meanwhile
                assert ask(server, "/api/streams/door/picture").status == 200
        assert board.image("door")[0] == 2000
        waiting = [one.transport.get_write_buffer_size() for one in list(server._server.server_state.connections)]
        assert all(size < 2_000_000 for size in waiting), "one picture at most"


def test_the_followers_are_bounded_and_their_places_come_free(board):
    with serving(board) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                reply = stack.enter_context(following(server, "/api/events", Accept="text/event-stream"))
                assert reply.readline() == b"retry: 2000\n"
            one_more = ask(server, "/api/events", Accept="text/event-stream")
            assert one_more.status == 503 and "16 viewers follow already" in one_more.json()["error"]
            assert ask(server, "/api/state").status == 200
        for _ in range(200):  # that they left is noticed when the loop comes round
            with following(server, "/api/events", Accept="text/event-stream") as reply:
                if reply.status == 200:
                    break
        assert reply.status == 200


def test_closing_ends_those_who_follow(board, caplog, capfd):
    server = PageServer(board)
    with following(server, "/api/events", Accept="text/event-stream") as reply:
        reply.readline()
        server.close()
        server.close()
        with contextlib.suppress(http.client.IncompleteRead, ConnectionResetError):
            assert reply.read() == b"\n"
    assert not any(thread.name in ("vlf-page", "vlf-page-figures") for thread in threading.enumerate())
    assert not caplog.records and capfd.readouterr().err == ""


# As a sink, and on the command line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_beyond_this_machine_a_token_is_made_and_shown_once_on_the_terminal(toy_plan, caplog):
    with Runtime(toy_plan, backend="fake") as runtime:
        with pytest.raises(VlfError, match="no terminal to show a new one on; give --serve-token-file FILE"):
            PageSink("0.0.0.0:0", runtime, {}, terminal=io.StringIO())
        terminal = Terminal()
        with PageSink("0.0.0.0:0", runtime, {"main": True}, terminal=terminal) as sink:
            token = terminal.getvalue().strip().partition("/#token=")[2]
            assert len(token) >= 32 and terminal.getvalue().count(token) == 1
            assert ask(sink.server, "/healthz").status == 401
            assert ask(sink.server, "/healthz", Authorization=f"Bearer {token}").status == 200
        assert token not in caplog.text


def test_a_token_file_is_used_on_this_machine_too(toy_plan, tmp_path, said):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o640)
    terminal = io.StringIO()
    with Runtime(toy_plan, backend="fake") as runtime:
        with PageSink("0", runtime, {"main": True}, token_file=path, terminal=terminal) as sink:
            assert ask(sink.server, "/api/state").status == 401
            plan = ask(sink.server, "/api/state", Authorization=f"Bearer {TOKEN}").json()["plan"]
    assert TOKEN not in terminal.getvalue()
    assert (plan["file"], plan["backend"], plan["classes"], plan["fidelity"]) == ("toy.plan", "fake", 5, None)


@pytest.mark.parametrize(
    "text, why", [(None, "No such file"), ("short", "holds no token"), ("with space " * 4, "holds no token")]
)
def test_a_bad_token_file_is_one_sentence(tmp_path, text, why):
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    with pytest.raises(VlfError, match=rf"{why}.*openssl rand -hex 24"):
        read_token(path)
    assert read_token_of(tmp_path, make_token())


def read_token_of(folder: Path, token: str) -> bool:
    path = folder / "made"
    path.write_text(token)
    return read_token(path) == token


def test_addresses():
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("[::]:80") == ("::", 80) and parse_address("cam.lan:80") == ("cam.lan", 80)
    for text in ("", "host", ":80", "host:", "1:2:3", "80 ", "http://x:80", "::1:80", "70000", "a:-1"):
        with pytest.raises(VlfError, match=r"expected \[HOST:\]PORT, such as 8080"):
            parse_address(text)


def test_what_cannot_be_served_is_one_sentence(toy_plan, tmp_path, capsys):
    words = ["run", str(toy_plan.path), "test://motion?seconds=1", "--backend", "fake"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*words, "--serve", str(taken.getsockname()[1])]) == 1
        assert "Address already in use; name another port: --serve [HOST:]PORT" in capsys.readouterr().err
    assert main([*words, "--serve", "no.such.host.invalid:80"]) == 1
    assert "expected a name or address of this machine" in capsys.readouterr().err
    assert main([*words, "--serve-token-file", str(tmp_path / "none")]) == 1
    assert "give --serve [HOST:]PORT too" in capsys.readouterr().err


def test_clips_are_those_of_the_runs_other_sinks(toy_plan, tmp_path):
    class Keeper(PrintSink):
        def clip_of(self, stream, event):
            return {("main", 3): tmp_path / "clip.mp4"}.get((stream, event))

    (tmp_path / "clip.mp4").touch()
    args = parser().parse_args(["run", str(toy_plan.path), "0", "--serve", "0"])
    with Runtime(toy_plan, backend="fake") as runtime:
        [page] = open_page(args, runtime, {"main": True}, [PrintSink(io.StringIO()), Keeper(io.StringIO())])
        with page:
            assert page.board.clip("main", 3) == tmp_path / "clip.mp4"
            assert page.board.clip("main", 4) is page.board.clip("door", 3) is None


def test_what_is_missing_is_named():
    code = "from vlf_edge.serve import Board, PageServer\nPageServer(Board({}))"
    done = run_without(("starlette",), code)
    assert "BackendMissing: the page needs starlette; pip install 'vlf_edge[serve]'" in done.stderr


def test_a_run_shows_itself_and_ends_at_a_signal_with_viewers_connected(toy_plan):
    command = [*VLF_EDGE, "run", toy_plan.path, "test://motion?seconds=3600&width=64&height=48"]
    process = subprocess.Popen(
        [*command, "--backend", "fake", "--serve", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    class Found:
        port = int(process.stderr.readline().strip().rstrip("/").rpartition(":")[2])

    with (
        following(Found, "/api/streams/main/video") as film,
        following(Found, "/api/events", Accept="text/event-stream") as heard,
    ):
        assert film.readline().startswith(b"--") and heard.readline() == b"retry: 2000\n"
        state = ask(Found, "/api/state").json()
        assert state["plan"]["backend"] == "fake" and state["streams"][0]["picture"] > 0
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=240)
    assert process.returncode == 143 and "decisions" in said and "Traceback" not in said, said
