"""Teaching, example by example: the same as enrolling at once; and a session of frames and keys, without a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlf_edge import Plan, Runtime, VlfError, enrol, open_source
from vlf_edge.enrolment.reading import Reader
from vlf_edge.enrolment.session import ENTER, ESCAPE, Session
from vlf_edge.enrolment.teaching import Teaching
from vlf_edge.head import UNKNOWN
from vlf_edge.types import Frame

GOLDEN = Path(__file__).parent / "golden" / "format2-fp32.plan"
SIZE = "seconds=2.5&fps=12&width=96&height=72"
GESTURES = {"yes": "nod", "no": "shake", "turn left": "counter-clockwise"}
SHOWN = [("yes", 1), ("no", 1), ("yes", 2), ("turn left", 1), ("no", 2)]
NOTHING = [("still", 1), ("up", 2)]


def clip(motion: str, seed: int) -> str:
    return f"test://motion?label={motion}&seed={seed}&{SIZE}"


def of(label: str) -> list[str]:
    return [clip(GESTURES[name], seed) for name, seed in SHOWN if name == label]


def members(plan: Plan) -> dict[str, bytes]:
    return {name: plan.read(name) for name in plan.manifest.members if name != "report.json"}


def assert_same(found: Plan, want: Plan) -> None:
    assert members(found) == members(want)
    assert found.manifest.labels == want.manifest.labels and found.manifest.head == want.manifest.head


@pytest.mark.parametrize("nothing", [True, False])
def test_teaching_example_by_example_is_enrolling_at_once(tmp_path, nothing):
    """To the bit, whichever came first, and whatever was undone; on a plan that was taught before, too."""
    none = [clip(*one) for one in NOTHING] if nothing else None
    actions = {label: of(label) for label in GESTURES}
    want = enrol(GOLDEN, actions, tmp_path / "want.plan", none=none, false_accepts=0.1)
    teaching = Teaching(Plan.open(GOLDEN), false_accepts=0.1)
    with Reader(teaching.plan, teaching.answer) as reader:

        def add(label: str, motion: str, seed: int) -> None:
            teaching.add(label, reader.read(clip(motion, seed), mirror=True, still=True), reader.least_s)

        if nothing:
            add(UNKNOWN, *NOTHING[0])
            assert teaching.head is None and teaching.decide(np.zeros(8)) is None
        for label, seed in SHOWN:
            add(label, GESTURES[label], seed)
            assert teaching.head.labels == (*teaching.labels, UNKNOWN)
        add("yes", "open", 3)
        assert teaching.undo() == "yes"
        if nothing:
            add(UNKNOWN, *NOTHING[1])
        assert teaching.examples == {"yes": 2, "no": 2, "turn left": 1, UNKNOWN: 2 * nothing}
        found = teaching.save(tmp_path / "found.plan")
        assert_same(found, want)
        window = reader.read(clip("nod", 7)).windows[0]
    label, share = teaching.decide(window)
    assert label == found.head().labels[int(found.head()(window).argmax())] and 0 < share <= 1
    if not nothing:
        return
    again = enrol(want, {"come": clip("approach", 1)}, tmp_path / "again.plan", false_accepts=0.1)
    teaching = Teaching(found, false_accepts=0.1)
    assert teaching.examples["yes"] == 2 and teaching.head.labels == found.manifest.labels
    with Reader(found, teaching.answer) as reader:
        teaching.add("come", reader.read(clip("approach", 1), still=True), reader.least_s)
    assert_same(teaching.save(tmp_path / "more.plan"), again)


def test_undoing_everything_leads_back(tmp_path):
    teaching = Teaching(Plan.open(GOLDEN))
    assert teaching.undo() is None
    with Reader(teaching.plan, teaching.answer) as reader:
        teaching.add("yes", reader.read(clip("nod", 1), still=True), reader.least_s)
        with pytest.raises(VlfError, match="teaches nothing: it has 0.92 s without a gap"):
            teaching.add("no", reader.read(clip("nod", 1).replace("2.5", "1")), reader.least_s)
    assert teaching.undo() == "yes" and teaching.head is None and teaching.labels == ()
    with pytest.raises(VlfError, match="nothing to save"):
        teaching.save(tmp_path / "x.plan")


class Camera:
    """Frames of rendered motion, one after another, on one clock."""

    def __init__(self, session: Session):
        self.session, self.t_s, self.seq = session, 100.0, 0
        self.shown: list[tuple[np.ndarray, float]] = []

    def show(self, motion: str, seed: int, seconds: float) -> None:
        url = f"test://motion?label={motion}&seed={seed}&seconds={seconds}&fps=12&width=96&height=72"
        for frame in open_source(url):
            self.show_image(frame.image)

    def show_image(self, image: np.ndarray, step_s: float = 1 / 12) -> None:
        self.t_s, self.seq = self.t_s + step_s, self.seq + 1
        self.shown.append((image, self.t_s))
        self.session.see(Frame(image, self.t_s, self.seq, 0.0))


@pytest.fixture
def lesson(tmp_path):
    """(camera, session): a plan, two labels, examples of three seconds after a countdown of one."""
    teaching = Teaching(Plan.open(GOLDEN), false_accepts=0.1)
    with Reader(teaching.plan, teaching.answer) as reader:
        labels = ["yes", "no"]
        session = Session(reader, teaching, labels, tmp_path / "mine.plan", seconds=3, countdown_s=1)
        yield Camera(session), session


def taught(camera: Camera, key: str, motion: str, seed: int) -> str:
    """Presses a key, waits out the countdown with something else, acts. Returns what was said."""
    session = camera.session
    session.messages.clear()
    session.press(key)
    camera.show("up", 5, 0.5)
    assert session.doing.endswith("in 1") and not session.messages
    camera.show("up", 5, 0.5)
    camera.show(motion, seed, 2.5)
    assert "now, for 0." in session.doing
    camera.show(motion, seed, 0.6)
    assert not session.doing
    return session.messages[-1]


def test_a_session_teaches_and_recognises_at_once_and_saves(lesson, tmp_path):
    camera, session = lesson
    session.press("1")
    assert session.messages.pop() == "there is no picture yet"
    camera.show("still", 1, 0.2)
    assert session.decided is None
    assert taught(camera, "1", "nod", 1).startswith("yes: example 1, ")
    taught(camera, "2", "shake", 1)
    taught(camera, "0", "still", 3)
    assert session.keys == [("1", "yes", 1), ("2", "no", 1), ("0", "nothing", 1)]
    assert session.decided is not None
    session.press("u")
    assert session.messages[-1] == "undone: an example of nothing" and session.keys[-1][2] == 0
    taught(camera, "0", "still", 3)
    session.press("q")
    assert session.wants_more and "not saved yet" in session.messages[-1]
    session.press("s")
    assert session.messages[-1] == f"saved {tmp_path / 'mine.plan'}: yes, no, unknown"
    session.press("q")
    assert not session.wants_more
    with Runtime(tmp_path / "mine.plan") as runtime:
        assert runtime.labels == ("yes", "no", UNKNOWN)


def test_an_example_is_what_came_after_the_countdown(lesson):
    """Its windows are, to the bit, those of a clip of these frames alone."""
    camera, session = lesson
    camera.show("left", 1, 1.5)
    begin_s = camera.t_s + 1.0
    taught(camera, "1", "nod", 1)
    shown = [(image, t_s) for image, t_s in camera.shown if begin_s <= t_s]
    end_s = next(t_s for _, t_s in shown if t_s - begin_s >= 3)
    want = session._reader.read([one for one in shown if one[1] <= end_s], still=True)
    (example,) = session.teaching._examples
    assert len(want.windows) == 7
    for name in ("windows", "mirrored", "still"):
        np.testing.assert_array_equal(getattr(example.reading, name), getattr(want, name))


def test_what_cannot_teach_is_said_and_nothing_changes(lesson):
    camera, session = lesson
    camera.show_image(np.full((72, 96, 3), 90, np.uint8))
    session.press("2")
    for _ in range(50):
        camera.show_image(np.full((72, 96, 3), 90, np.uint8))
    assert "this example of 'no' teaches nothing: nothing moves in it" in session.messages[-1]
    assert session.teaching.head is None and not session.doing


def test_labels_can_be_typed(lesson):
    camera, session = lesson
    session.press("n")
    session.press("waw\x7fve")
    assert session.doing == "new label: wave_"
    session.press(ENTER[0])
    assert session.messages.pop() == "'wave' has the key 3" and session.keys[2] == ("3", "wave", 0)
    for typed, said in [("wave", "has a key already"), ("nothing", "has a key already"), (" ", "a label is")]:
        session.press("n")
        session.press(typed + "\n")
        assert said in session.messages.pop()
    session.press("nx")
    session.press(ESCAPE)
    assert not session.doing and len(session.labels) == 3
    session.press("7")
    assert "no label has the key 7" in session.messages.pop()


def test_what_interrupts_an_example_gives_it_up(lesson):
    camera, session = lesson
    camera.show("nod", 1, 0.5)
    session.press("1")
    camera.show("nod", 1, 1.5)
    session.press("\x1b[A")  # an arrow
    assert session.doing
    session.press(ESCAPE)
    assert not session.doing and session.messages.pop() == "given up"
    session.press("1")
    camera.show("nod", 1, 1.5)
    camera.t_s = 3.0
    camera.show("nod", 1, 3.0)
    assert "the example of yes is given up: the camera was interrupted" in session.messages
    assert session.teaching.head is None


def test_nothing_among_the_labels_has_their_key(tmp_path):
    teaching = Teaching(Plan.open(GOLDEN))
    with Reader(teaching.plan, teaching.answer) as reader:
        session = Session(reader, teaching, ["wave", "nothing"], tmp_path / "x", seconds=3, countdown_s=0)
        assert session.keys == [("1", "wave", 0), ("2", "nothing", 0)]
        with pytest.raises(VlfError, match="there are 10 labels and 9 keys"):
            Session(reader, teaching, list("abcdefghij"), tmp_path / "x", seconds=3, countdown_s=0)
