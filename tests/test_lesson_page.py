"""Teaching on the page: who may ask for something there, what comes of it in a Session, and in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from chromium import FAINT, OVERLAPS, PHONE, WIDE
from clocks import SetClock
from page_scenes import serving
from patient import VLF_EDGE
from test_serve import TOKEN, Answer, ask, following
from test_teach import GOLDEN, NOD, WITHIN_S, FailingCamera

from vlf_edge import Frame, Plan, open_source
from vlf_edge.cli import main
from vlf_edge.commands.lesson_page import LessonPage
from vlf_edge.enrolment.reading import Reader
from vlf_edge.enrolment.session import KEYS, Session
from vlf_edge.enrolment.teaching import Teaching
from vlf_edge.serve import Board
from vlf_edge.serve.lesson import Closed, LessonBoard

ESCAPE = "\x1b"


def want(server, wish: object, **headers: str) -> Answer:
    """Asks as the page does, but for what is given."""
    body = wish if isinstance(wish, str) else json.dumps(wish)
    return ask(server, "/api/lesson", "POST", body, **{"Content_Type": "application/json", **headers})


# Who may ask, and for what


@pytest.fixture
def board() -> LessonBoard:
    return LessonBoard(KEYS)


def test_keys_are_taken_from_the_page_itself_and_from_programs_that_have_the_token(board):
    with serving(Board({}), token=TOKEN, lesson=board) as server:
        here = f"127.0.0.1:{server.port}"
        cookie = ask(server, "/login", "POST", f"token={TOKEN}").headers["set-cookie"].split(";")[0]
        program = {"Authorization": f"Bearer {TOKEN}"}
        allowed = [
            program,
            {"Cookie": cookie, "Origin": f"http://{here}"},
            {"Cookie": cookie, "Origin": f"http://{here}", "Sec_Fetch_Site": "same-origin"},
            # Behind a proxy the browser's word is better than the names, which differ.
            {"Cookie": cookie, "Origin": "https://cam.example", "Sec_Fetch_Site": "same-origin"},
        ]
        for number, headers in enumerate(allowed, 1):
            assert want(server, {"keys": str(number)}, **headers).status == 204, headers
        assert want(server, {"label": "wave"}, **program).status == 204
        assert want(server, {"keys": "s" + ESCAPE}, Content_Type="application/json; charset=utf-8", **program).status
    taken = board.take()
    assert taken == [*(("keys", key) for key in "1234"), ("label", "wave"), ("keys", "s" + ESCAPE)]


def test_nobody_else_presses_keys(board):
    with serving(Board({}), token=TOKEN, lesson=board) as server:
        cookie = ask(server, "/login", "POST", f"token={TOKEN}").headers["set-cookie"].split(";")[0]
        for header in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}"):
            assert want(server, {"keys": "1"}, Authorization=header).status == 401, header
        here = f"http://127.0.0.1:{server.port}"
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": f"{here}.evil.example"},
            {"Origin": here, "Sec_Fetch_Site": "cross-site"},
            {"Origin": here, "Sec_Fetch_Site": "same-site"},  # another port of this machine
        ):
            refused = want(server, {"keys": "1"}, Cookie=cookie, **headers)
            assert (refused.status, refused.json()) == (403, {"error": "asked for by another site's page"}), headers
        assert want(server, {"keys": "1"}, Cookie=cookie, Host="evil.example").status == 421
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            assert want(server, {"keys": "1"}, Cookie=cookie, Content_Type=kind).status == 415, kind
        for method in ("GET", "PUT", "OPTIONS"):
            assert ask(server, "/api/lesson", method, Cookie=cookie).status == 405
        assert ask(server, "/login", "POST", f"token={TOKEN}", Origin="http://evil.example").status == 403
    assert board.take() == []


@pytest.mark.parametrize(
    "body, why",
    [
        ("", "this is no JSON"),
        ("{", "this is no JSON"),
        ('{"keys": NaN}', "this is no JSON: it holds NaN"),
        ('{"keys": "\\ud800"}', "this is no JSON"),
        ("[" * 2000, "this is no JSON"),
        ('"1"', 'expected {"keys": "1"} or {"label": "wave"}, with 1 to 60 characters, got "1"'),
        ("{}", "expected"),
        ('{"keys": 1}', "expected"),
        ('{"keys": ""}', "expected"),
        ('{"press": "1"}', "expected"),
        ('{"keys": "1", "label": "wave"}', "expected"),
        (json.dumps({"label": "w" * 61}), "expected"),
        ('{"keys": "x"}', "there is no key 'x'; expected some of '0123456789usq"),
        ('{"keys": "1n"}', "there is no key 'n'"),
        ('{"keys": "1x1"}', "there is no key 'x'"),
        ('{"keys": "\\u0661"}', "there is no key"),
    ],
)
def test_what_means_nothing_is_refused_and_says_why(board, body, why):
    with serving(Board({}), lesson=board) as server:
        answer = want(server, body)
        assert answer.status == 400 and answer.json()["error"].startswith(why)
        assert want(server, json.dumps({"label": "w" * 5000})).status == 413
    assert board.take() == []


def test_what_is_asked_for_is_bounded(board):
    for _ in range(16):
        board.ask(b'{"keys": "1"}')
    with serving(Board({}), lesson=board) as server:
        full = want(server, {"keys": "1"})
        assert full.status == 503 and "the camera gives no pictures" in full.json()["error"]
        assert len(board.take()) == 16
        assert want(server, {"keys": "1"}).status == 204
        board.end()
        assert (want(server, {"keys": "1"}).status, ask(server, "/api/state").json()["lesson"]["over"]) == (409, True)


def test_the_page_of_a_run_takes_no_keys():
    with serving(Board({})) as server:
        assert want(server, {"keys": "1"}).status == 404
        assert ask(server, "/api/state").json()["lesson"] is None


def test_who_looks_is_shown_the_end_and_nobody_else_is_waited_for():
    clock, waited = SetClock(), []
    board = LessonBoard(KEYS, clock=clock)
    board.end(waited.append)
    assert waited == []
    board.state()
    clock.now_s += 3
    board.end(waited.append)
    assert waited == []
    board.state()
    clock.now_s += 1
    board.end(waited.append)
    assert waited == [0.7]
    with pytest.raises(Closed, match="the lesson is over"):
        board.ask(b'{"keys": "1"}')


def test_the_newest_messages_are_shown_with_their_numbers(board):
    for number in range(20):
        board.tell(f"line {number}")
    assert board.state()["messages"] == [[number + 1, f"line {number}"] for number in range(12, 20)]


# What comes of it


class Lesson:
    """A session and its page, on frames that are given here."""

    def __init__(self, session: Session, page: LessonPage):
        self.session, self.page, self.server, self.t_s, self.seq = session, page, page._server, 0.0, 0

    def show(self, seconds: float, motion: str = "nod") -> None:
        for frame in open_source(f"test://motion?label={motion}&seconds={seconds}&fps=12&width=96&height=72"):
            self.t_s, self.seq = self.t_s + 1 / 12, self.seq + 1
            shown = Frame(frame.image, self.t_s, self.seq, 0.0)
            self.session.see(shown)
            self.page.obey()
            while self.session.messages:
                self.page.tell(self.session.messages.pop(0))
            self.page.show(shown)

    def want(self, **wish: str) -> None:
        assert want(self.server, wish).status == 204
        self.show(0.1)

    @property
    def told(self) -> dict:
        """What the interface tells next; for a tenth of a second it tells the same."""
        return self.page._lesson.state()

    @property
    def stream(self) -> dict:
        return self.page._board.state()["streams"][0]


@pytest.fixture
def lesson(tmp_path):
    """Two labels, examples of three seconds after a countdown of one."""
    teaching, output = Teaching(Plan.open(GOLDEN)), str(tmp_path / "mine.plan")
    with Reader(teaching.plan, teaching.answer) as reader, open_source(NOD) as source:
        session = Session(reader, teaching, ["yes", "no"], output, seconds=3, countdown_s=1)
        with LessonPage("0", session, reader, source, output, None) as page:
            yield Lesson(session, page)


def test_a_session_over_http(lesson, tmp_path):
    first = ask(lesson.server, "/api/state").json()
    assert first["lesson"] == {
        "keys": [["1", "yes", 0], ["2", "no", 0], ["0", "nothing", 0]], "now": None, "unsaved": 0,
        "output": str(tmp_path / "mine.plan"), "messages": [], "over": False,
    }  # fmt: skip
    assert first["plan"]["model"] and first["streams"][0]["state"] == "waiting"
    lesson.want(keys="1")
    lesson.show(0.5)
    told = lesson.told
    assert told["now"]["label"] == "yes" and not told["now"]["acting"] and 0 < told["now"]["left_s"] < 1
    lesson.show(1.0)
    assert lesson.told["now"]["acting"]
    lesson.want(keys="2")  # a key while somebody acts begins anew
    assert lesson.told["now"]["label"] == "no" and not lesson.told["now"]["acting"] and not lesson.told["messages"]
    lesson.show(4.2)
    told = lesson.told
    assert told["now"] is None and told["unsaved"] == 1 and told["keys"][1] == ["2", "no", 1]
    assert told["messages"][0][1].startswith("no: example 1, ")
    stream = lesson.stream
    assert (stream["state"], stream["label"]) == ("ok", "no") and stream["topk"] == [["no", stream["score"]]]
    lesson.want(keys="1")
    lesson.want(keys=ESCAPE)
    assert lesson.told["now"] is None and lesson.told["messages"][-1][1] == "given up"
    lesson.want(label=" wave ")
    lesson.want(label="wave")
    assert [text for _, text in lesson.told["messages"][-2:]] == ["'wave' has the key 3", "'wave' has a key already"]
    lesson.want(keys="7")
    assert "no label has the key 7" in lesson.told["messages"][-1][1]
    lesson.want(keys="q")
    assert lesson.session.wants_more and not (tmp_path / "mine.plan").exists()
    lesson.want(keys="sq")
    assert not lesson.session.wants_more and lesson.told["unsaved"] == 0
    assert Plan.open(tmp_path / "mine.plan").manifest.labels == ("no", "unknown")


def test_what_is_being_typed_in_the_terminal_is_no_matter_for_the_page(lesson):
    lesson.show(0.2)
    lesson.session.press("nwa")
    lesson.want(keys="1")
    assert lesson.session.now.label == "yes" and lesson.session.doing == "new label: wa_"
    lesson.session.press("ve\n")
    assert lesson.session.keys[2] == ("3", "wave", 0)


def test_each_decision_is_shown_once(lesson):
    lesson.show(0.2)
    lesson.want(keys="1")
    lesson.show(5)
    decided = [label for label, _ in lesson.stream["decided"]]
    assert 0 < decided.count("yes") < 12, "not one for each of the 12 frames of the last second"
    lesson.want(keys="u")
    assert lesson.stream["state"] == "warming" and lesson.told["unsaved"] == 0


# As a command


class Program:
    """vlf-edge teach with its page and without a terminal."""

    def __init__(self, folder: Path, *more: str, source: str = NOD):
        self.process = subprocess.Popen(
            [*VLF_EDGE, "teach", str(GOLDEN), source, "-o", "mine.plan", "--countdown", "0.5", "--serve", "0", *more],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
        page = next(line for line in self.process.stderr if line.startswith("page: "))
        self.url = page.split()[1]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def end(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        out, said = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, out, said

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_viewers_connected(tmp_path, number, code):
    with Program(tmp_path, "--labels", "yes") as program:
        stream = ask(program, "/api/state").json()["streams"][0]["name"]
        with following(program, f"/api/streams/{quote(stream, safe='')}/video") as film:
            assert film.readline().startswith(b"--")
            assert want(program, {"keys": "1"}).status == 204
            while not ask(program, "/api/state").json()["lesson"]["unsaved"]:
                pass
            program.process.send_signal(number)
            ended, _, said = program.end()
    assert ended == code and said.endswith("vlf-edge: interrupted; 1 example(s) taught since were not saved\n"), said
    assert "Traceback" not in said and not [*tmp_path.iterdir()]


def test_a_camera_that_fails_is_told_on_the_page(monkeypatch, tmp_path, capsys):
    shown = []
    monkeypatch.setattr("vlf_edge.video.open_source", lambda *what: FailingCamera())
    monkeypatch.setattr(LessonBoard, "end", lambda self: shown.append(self.state()))
    output = str(tmp_path / "x.plan")
    assert main(["teach", str(GOLDEN), "0", "--serve", "0", "--labels", "yes", "-o", output]) == 4
    assert shown[0]["messages"][-1][1] == "the camera is gone"


def test_what_cannot_be_served_is_one_sentence(tmp_path, capsys):
    assert main(["teach", str(GOLDEN), NOD, "-o", str(tmp_path / "x"), "--serve", "no.such.host.invalid:80"]) == 1
    assert "expected a name or address of this machine" in capsys.readouterr().err
    assert main(["teach", str(GOLDEN), NOD, "-o", str(tmp_path / "x"), "--serve", "0.0.0.0:0"]) == 1
    assert "needs a token" in capsys.readouterr().err


# In a browser


def test_two_labels_are_taught_in_a_browser_and_saved(browser, tmp_path):
    """Keys, buttons and the field, from the first example to the end."""
    source = NOD.replace("width=96&height=72", "width=192&height=144")
    with Program(tmp_path, "--labels", "yes", "--realtime", source=source) as program:
        browser.look(program, WIDE)
        browser.until("$$('#lesson-keys button').length === 2 && $('.picture img').naturalWidth")
        assert browser.js("return [$('.events').checkVisibility(), $('#lesson-drop').disabled]") == [False, True]
        browser.press("1")
        browser.until("$('#lesson-now.acting')?.textContent.startsWith('yes: now, ')")
        assert browser.js("return $('#announce').textContent") == "yes: now"
        assert browser.js("return $('#lesson-keys [aria-current=true] .name').textContent") == "yes"
        browser.until("$('#lesson-log').textContent.startsWith('yes: example 1')")
        browser.until("$('.decision .label').innerText === 'yes' && $('.decision').checkVisibility()")
        browser.press("n", "two words 2\n")
        browser.until("$$('#lesson-keys button').length === 3 && document.activeElement.textContent.startsWith('2')")
        assert browser.js("return $('#lesson-label').value") == "", "and no key was pressed by what was typed"
        assert browser.js("return $('#lesson-keys [aria-current=true]')") is None
        for button, told in ((2, "two words 2: example 1"), (3, "nothing: example 1")):
            browser.click(f"#lesson-keys button:nth-child({button})")
            browser.until("$('#lesson-log').textContent.includes(arguments[0])", told)
        browser.press("u")
        browser.until("$('#lesson-log').textContent.startsWith('undone: an example of nothing')")
        browser.press("2")
        browser.until("!$('#lesson-drop').disabled")
        browser.click("#lesson-drop")
        browser.until("$('#lesson-log').textContent.startsWith('given up')")
        browser.press("q")
        browser.until("$('#lesson-leave').open && $('#lesson-leave-what').innerText === '4 changes not saved yet.'")
        browser.press("1")
        browser.click("#lesson-stay")
        assert browser.js("return $('#lesson-now').className") == "news", "no key reaches behind the dialog"
        browser.click("#lesson-end")
        browser.click("#lesson-save-and-go")
        browser.until("$('#lesson-now').textContent === 'Ended: saved mine.plan: yes, two words 2, unknown'")
        assert browser.js("return $('#lesson-keys button').disabled && $('#health').innerText") == "Ended"
        code, out, said = program.end()
        assert code == 0 and "mine.plan:\n" in out, said
        assert browser.complaints() == [] and not browser.js("return $('#lost-contact').checkVisibility()")
    plan = Plan.open(tmp_path / "mine.plan")
    assert plan.manifest.labels == ("yes", "two words 2", "unknown") and plan.head() is not None


@pytest.mark.parametrize("size, scheme", [((375, 667), "dark"), (PHONE, "light"), (WIDE, "dark"), (WIDE, "light")])
def test_everything_fits_and_can_be_read(browser, board, size, scheme):
    stream, long = Board({"0": True}, events=False), "turning the handle of the garden gate without opening it"
    stream.write(Frame(np.full((90, 160, 3), 90, np.uint8), 0.0, 0, 0.0, stream="0"), None)
    keys = [[str(key), long if key in (2, 3) else f"label {key}", key] for key in (*range(1, 10), 0)]
    shown = {"keys": keys, "now": None, "unsaved": 3, "output": "/home/somebody/plans/mine.plan"}
    board.tell(f"{long}: example 3, much moved (238 of 255); learned in 49 ms")
    board.show({**shown, "now": None})
    with serving(stream, lesson=board) as server:
        browser.look(server, size, prefers_color_scheme=scheme)
        browser.until("$$('#lesson-keys button').length === 10 && $('#lesson-now').textContent")
        for step, now in (
            ("news", None),
            ("soon", {"label": long, "acting": False, "left_s": 2.2}),
            ("acting", {"label": long, "acting": True, "left_s": 1}),
        ):
            board.show({**shown, "now": now})
            browser.until("$('#lesson-now').className === arguments[0]", step)
            assert browser.js(OVERLAPS) == [] and browser.js(FAINT) == []
            sizes = browser.js("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
            assert sizes[0] == sizes[1], "nothing sticks out"
            small = "$$('#lesson button').filter((b) => b.getBoundingClientRect().height < 44)"
            assert browser.js(f"return {small}.length") == 0, "large enough for a finger"
        assert browser.complaints() == []


def test_screen_readers_are_told_what_everything_is_and_what_strangers_write_stays_text(browser, board):
    evil = "<img src=x onerror=\"document.title='taken'\">"
    board.show({"keys": [["1", evil, 1], ["0", "nothing", 2]], "now": None, "unsaved": 1, "output": evil})
    board.tell(evil)
    with serving(Board({"0": True}), lesson=board) as server:
        browser.look(server).until("$$('#lesson-keys button').length === 2 && $('#lesson-log li')")
        nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        assert browser.js("return [$('#lesson-log li').innerText, document.title === 'taken']") == [evil, False]
    known = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")}
    for expected in (
        ("button", f"{evil}, 1 example"), ("button", "nothing, 2 examples"), ("group", "Give an example of"),
        ("textbox", "New label"), ("log", "What happened"), ("region", "Teach"), ("button", "Save"), ("button", "End"),
    ):  # fmt: skip
        assert expected in known, (expected, known)


def test_a_refused_key_and_a_lost_program_are_said(browser, board):
    board.show({"keys": [["0", "nothing", 0]], "now": None, "unsaved": 0, "output": "mine.plan"})
    with contextlib.ExitStack() as stack:
        browser.look(stack.enter_context(serving(Board({"0": True}), lesson=board))).until("$('#lesson-keys button')")
        for _ in range(16):
            board.ask(b'{"keys": "0"}')
        browser.press("0")
        browser.until("$('#lesson-error').innerText.includes('the camera gives no pictures')")
        board.take()
        browser.press("0")
        browser.until("$('#lesson-error').innerText === ''")
        assert board.take() == [("keys", "0")]
        stack.close()
        browser.press("0")
        browser.until("$('#lesson-error').innerText === 'The program does not answer.'")
