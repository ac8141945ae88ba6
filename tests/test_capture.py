"""Cameras that stall, fail, end, hang and come back, as a pipeline sees them; time is turned by hand."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from clocks import MockClock, eventually
from conftest import toy_manifest
from fake_cameras import FakeCamera, FakeSource
from test_accounting import adds_up
from test_recognizer import fake_engines

from vlf_edge import (
    BackendMissing,
    Camera,
    CameraError,
    EventDetector,
    EventSettings,
    Limits,
    ModelError,
    ShapeError,
    VlfError,
)
from vlf_edge.runtime.capture import Capture
from vlf_edge.runtime.pipeline import Pipeline
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.watchdog import MOST_HANGING
from vlf_edge.video.sources import Address, IterableSource


class Run:
    """A pipeline of cameras on a clock that is turned by hand, and a caller that takes every step."""

    def __init__(self, sources, *, every_frame: bool = False, **limits):
        manifest = toy_manifest()
        self.engines = fake_engines(manifest)
        self.recognizer = Recognizer(manifest, self.engines)
        self.clock, self.predictions, self.error = MockClock(), [], None
        self.pipeline = Pipeline(
            self.recognizer, sources, clock=self.clock, limits=Limits(**limits), every_frame=every_frame
        )
        self._caller = threading.Thread(target=self._take, daemon=True)
        self._caller.start()

    def _take(self) -> None:
        try:
            for step in self.pipeline:
                assert (step.frame is None) == (step.prediction.state in ("no_signal", "ended"))
                self.predictions.append(step.prediction)
        except BaseException as error:
            self.error = error

    def states(self) -> list[str]:
        return [prediction.state for prediction in self.predictions]

    def until(self, *last: str) -> None:
        """Until the newest states are these."""
        eventually(lambda: tuple(self.states()[-len(last) :]) == last, f"{self.states()} never ended with {last}")

    def advance(self, seconds: float) -> None:
        """In steps, as time goes."""
        while seconds > 1e-9 and self.running():
            self.clock.advance(min(0.25, seconds))
            seconds -= 0.25

    def report(self, stream: str = "main") -> dict:
        return self.pipeline.reports()[stream]

    def give_slowly(self, camera: FakeCamera, frames: int) -> None:
        """One by one, each taken, so that none is replaced by the next."""
        for _ in range(frames):
            before = len(self.predictions)
            camera.source.give(1)
            eventually(lambda before=before: len(self.predictions) > before or self.error is not None)

    def running(self) -> bool:
        return self._caller.is_alive()

    def ended(self) -> None:
        self._caller.join(60)
        assert not self.running()


@pytest.fixture
def run():
    made = []

    def start(*args, **options) -> Run:
        made.append(Run(*args, **options))
        return made[-1]

    yield start
    for one in made:
        one.pipeline.close()
        one.ended()
        for stream in one.recognizer.streams.values():
            assert adds_up(stream.stats.counts)
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("vlf-")]:
        eventually(lambda thread=thread: not thread.is_alive(), f"the thread {thread.name} is left")


def test_a_camera_that_is_absent_at_the_start_does_not_end_the_run(run, caplog):
    camera = FakeCamera()
    camera.absent = CameraError("no camera at /dev/video9")
    held = run(camera.address)
    held.until("no_signal")
    told = held.predictions[0]
    assert (told.seq, told.label, told.stream, told.scores) == (-1, None, "main", None)
    held.advance(3.0)
    counts = held.recognizer.streams["main"].stats.counts
    eventually(lambda: len(held.predictions) + counts["undelivered"] == 4)
    assert set(held.states()) == {"no_signal"}
    camera.absent = None
    held.advance(1.0)
    eventually(lambda: camera.opened)
    held.give_slowly(camera, 5)
    held.until("warming", "ok", "ok")
    assert held.report()["state"] == "live" and held.report()["last_error"] == "no camera at /dev/video9"
    assert [r.message for r in caplog.records] == [
        "main: no camera at /dev/video9; it is tried until it is there (--max-retries 0 ends instead)"
    ]


@pytest.mark.parametrize("how", ["fail", "end", "break"])
def test_a_camera_that_fails_is_opened_again_and_its_window_begins_anew(run, how):
    camera = FakeCamera()
    held = run(camera.address)
    eventually(lambda: camera.opened)
    held.give_slowly(camera, 5)
    held.until("ok")
    first = camera.source
    {"fail": first.fail, "end": first.end, "break": lambda: first.fail(RuntimeError("libusb"))}[how]()
    held.until("ok", "no_signal")
    assert first.closed, "the device is free for the next"
    held.advance(0.5)
    eventually(lambda: len(camera.opened) == 2)
    held.give_slowly(camera, 5)
    assert held.states()[-5:] == ["gap", "warming", "warming", "ok", "ok"]
    assert [p.seq for p in held.predictions if p.state != "no_signal"] == list(range(10)), "numbers go on"
    report = held.report()
    assert (report["state"], report["reconnects"]) == ("live", 1) and report["last_error"]


def test_what_has_failed_is_gone_without_the_garbage_collector(run):
    """Pictures and threads of decoders go with it: circles that waited for the collector cost 80 MB an hour."""
    camera = FakeCamera()
    held = run(camera.address)
    gc.disable()
    try:
        for number in range(1, 3):
            eventually(lambda number=number: len(camera.opened) == number)
            camera.source.give(2)
            held.until("warming")
            gone = weakref.ref(camera.source)
            camera.source.fail()
            held.until("no_signal")
            camera.opened[-1] = None
            held.advance(1.0)
            eventually(lambda gone=gone: gone() is None)
    finally:
        gc.enable()


def test_a_read_that_hangs_is_abandoned_and_its_late_frames_never_enter(run):
    camera = FakeCamera()
    held = run(camera.address)
    eventually(lambda: camera.opened)
    held.give_slowly(camera, 5)
    hung = camera.source
    hung.deaf = True
    held.advance(5.0)
    held.until("no_signal")
    assert hung.closed and held.report()["state"] == "no_signal"
    held.advance(0.5)
    eventually(lambda: len(camera.opened) == 2)
    held.give_slowly(camera, 2)
    hung.give(3)  # the driver wakes up
    counts = held.recognizer.streams["main"].stats.counts
    eventually(lambda: counts["dropped_late"] == 1)
    held.give_slowly(camera, 3)
    assert held.states()[-5:] == ["gap", "warming", "warming", "ok", "ok"]
    assert adds_up(counts) and counts["captured"] == 11


def test_the_event_of_a_camera_that_is_away_ends(run):
    camera = FakeCamera()
    held = run(camera.address)
    eventually(lambda: camera.opened)
    held.give_slowly(camera, 8)
    held.until("ok")
    last_s = held.predictions[-1].t_end_s
    camera.absent = CameraError("no camera at /dev/video9")
    camera.source.fail()
    held.advance(3.0)
    eventually(lambda: held.predictions[-1].t_end_s > last_s + 2)
    told = held.predictions[-1]
    assert (told.state, told.t_start_s) == ("no_signal", last_s)
    assert told.t_end_s == pytest.approx(last_s + told.age_ms / 1e3), "the source's clock goes on without frames"

    labels = toy_manifest().labels
    settings = EventSettings(threshold=0.1, leave=0.01, smooth_s=0, min_s=0, gap_s=2, ignore=())
    detector = EventDetector(labels, held.recognizer.sampling.span_s, settings)
    events = [event for prediction in held.predictions for event in detector.add(prediction)]
    assert events and events[-1].t_end_s == last_s and detector.finish() == []


def test_no_signal_is_behind_what_was_captured_before(run):
    camera = FakeCamera()
    held = run(camera.address, every_frame=True)
    eventually(lambda: camera.opened)
    camera.source.give(6)
    camera.source.fail()
    held.until("no_signal")
    assert held.states().index("no_signal") == len(held.states()) - 1


def test_threads_that_hang_are_bounded(run):
    camera = FakeCamera()
    camera.hangs_when_opened = True
    held = run(camera.address)
    for _ in range(3 * MOST_HANGING):
        held.advance(40.0)

    def hanging():
        return [t for t in threading.enumerate() if t.name == "vlf-capture"]

    assert len(hanging()) == MOST_HANGING and "no_signal" in held.states()
    held.pipeline.close()
    assert not camera.released.is_set(), "it is not waited for"
    camera.released.set()
    held.ended()


def test_an_opening_that_was_given_up_is_closed_when_it_comes_back(run):
    camera = FakeCamera()
    camera.hangs_when_opened = True
    held = run(camera.address)
    held.advance(30.0)
    camera.hangs_when_opened = False
    held.advance(2.0)
    eventually(lambda: len(camera.opened) == 1)
    held.give_slowly(camera, 1)
    camera.released.set()
    eventually(lambda: len(camera.opened) == 2 and camera.opened[1].closed)
    assert not camera.opened[0].closed


@pytest.mark.parametrize("most", [0, 2])
def test_it_gives_up_after_max_retries(run, most):
    camera = FakeCamera()
    camera.absent = CameraError("no camera at /dev/video9")
    held = run(camera.address, max_retries=most)
    while most and held.running():
        held.advance(0.25)
    held.ended()
    assert isinstance(held.error, CameraError) and str(held.error) == "no camera at /dev/video9"
    assert set(held.states()) == ({"no_signal"} if most else set())


def test_one_camera_without_a_signal_leaves_the_others_alone(run):
    door, dock = FakeCamera("door"), FakeCamera("dock")
    door.absent = CameraError("no camera at door")
    held = run({"door": door.address, "dock": dock.address}, max_retries=1)
    eventually(lambda: dock.opened)
    held.give_slowly(dock, 4)
    eventually(lambda: held.report("door")["last_error"])
    held.advance(2.0)
    eventually(lambda: "ended" in held.states())
    assert held.report("door")["state"] == "failed"
    held.give_slowly(dock, 4)
    assert [p.state for p in held.predictions if p.stream == "dock"][3:] == ["ok"] * 5
    assert held.report("dock")["state"] == "live"


def test_cameras_have_limits_of_their_own(run):
    door, dock = FakeCamera("door"), FakeCamera("dock")
    own = Limits(stall_timeout_s=1, max_retries=0, max_staleness_s=0.5, budget_ms=100)
    held = run({"door": Camera(door.address, limits=own), "dock": dock.address}, stall_timeout_s=5)
    eventually(lambda: door.opened and dock.opened)
    for camera in (door, dock):
        for age_s in (0, 0, 0, 0, 1.0):
            camera.source.captured_s = held.clock() - age_s
            held.give_slowly(camera, 1)
    last = {p.stream: p.state for p in held.predictions}
    assert last == {"door": "stale", "dock": "ok"}
    counts = {name: stream.stats.counts for name, stream in held.recognizer.streams.items()}
    assert (counts["door"]["over_budget"], counts["dock"]["over_budget"]) == (1, 0)
    held.advance(1.5)
    held.until("ended")
    assert held.report("door")["state"] == "failed" and held.report("dock")["state"] == "live"
    held.advance(4.0)
    held.until("no_signal")
    assert held.report("dock")["state"] == "no_signal"


def test_a_source_of_the_callers_own_is_told_of_when_it_stalls_and_ends_when_it_ends(run):
    source = FakeSource()
    held = run(source)
    source.give(1)
    held.until("warming")
    held.advance(5.0)
    held.until("warming", "no_signal")
    assert not source.closed, "it cannot be opened again"
    source.give(1)
    held.until("no_signal", "gap")
    source.end()
    held.ended()
    assert held.error is None and held.report()["state"] == "ended"


def test_a_source_of_the_callers_own_that_fails_ends_with_its_error(run):
    source = FakeSource()
    held = run(source)
    source.fail(CameraError("lens fell off"))
    held.ended()
    assert str(held.error) == "lens fell off" and held.report()["state"] == "failed"


@pytest.mark.parametrize("error", [BackendMissing("PyAV is not installed"), VlfError("no such format")])
def test_what_can_never_be_opened_ends_the_run_at_once(run, error):
    missing, other = FakeCamera("missing"), FakeCamera("other")
    missing.absent = error
    held = run({"missing": missing.address, "other": other.address})
    held.ended()
    assert held.error is error and not held.predictions


def test_a_frame_of_the_wrong_kind_is_no_outage(run):
    wrong = Address("wrong", True, lambda: Floats([]), again=True)
    held = run(wrong)
    held.ended()
    assert isinstance(held.error, ShapeError) and "float32" in str(held.error)


class Floats(IterableSource):
    live = True

    def read(self):
        return self._frame(np.zeros((48, 64, 3), np.float32), 0.0)


def test_a_decision_that_comes_too_late_is_stale(run):
    camera = FakeCamera()
    held = run(camera.address, max_staleness_s=2.0, budget_ms=500)
    eventually(lambda: camera.opened)
    for age_s in (0, 0, 0, 0.1, 0.6, 2.1, 1.9):
        camera.source.captured_s = held.clock() - age_s
        held.give_slowly(camera, 1)
    assert held.states() == ["warming"] * 3 + ["ok", "ok", "stale", "ok"]
    stale = held.predictions[5]
    assert stale.label is stale.score is stale.scores is stale.logits is None and stale.topk == ()
    assert stale.age_ms == pytest.approx(2100)
    summary = held.recognizer.streams["main"].stats.summary()
    assert (summary["counts"]["decisions"], summary["counts"]["stale"], summary["counts"]["over_budget"]) == (4, 1, 3)
    assert summary["ms"]["age"]["max"] == pytest.approx(2100) and summary["ms"]["age"]["n"] == 4


def hang(held: Run, release: threading.Event, monkeypatch) -> threading.Event:
    """The engine hangs in its next run until it is released. Returns what says that it is in there."""
    step, entered = held.recognizer.executor.step, threading.Event()

    def hanging(due):
        entered.set()
        assert release.wait(60)
        return step(due)

    monkeypatch.setattr(held.recognizer.executor, "step", hanging)
    return entered


def test_an_engine_that_hangs_is_told_of(run, monkeypatch):
    camera, release = FakeCamera(), threading.Event()
    held = run(camera.address, engine_timeout_s=3.0)
    eventually(lambda: camera.opened)
    entered = hang(held, release, monkeypatch)
    camera.source.give(1)
    assert entered.wait(60)
    camera.source.give(2)
    eventually(lambda: held.recognizer.streams["main"].stats.counts["waiting"] == 3)
    held.advance(3.5)
    held.ended()
    assert isinstance(held.error, ModelError)
    assert "the engine has been at work on one batch for 3 s" in str(held.error) and "--backend" in str(held.error)
    counts = held.recognizer.streams["main"].stats.counts
    assert adds_up(counts) and counts["waiting"] == 1, "the one that the engine has"
    release.set()


def test_frames_that_the_source_lost_are_counted_with_their_cause(run):
    camera = FakeCamera()
    held = run(camera.address)
    eventually(lambda: camera.opened)
    held.give_slowly(camera, 1)
    camera.source.undecoded, camera.source.overrun = 3, 2
    held.give_slowly(camera, 1)
    held.give_slowly(camera, 1)
    counts = held.recognizer.streams["main"].stats.counts
    assert (counts["captured"], counts["dropped"]) == (8, 5) and adds_up(counts)
    assert (counts["dropped_undecoded"], counts["dropped_overrun"]) == (3, 2)


@pytest.mark.parametrize("at", ["opening", "waiting", "stalled", "hanging read", "hanging engine"])
def test_close_returns_from_every_state(run, monkeypatch, at):
    monkeypatch.setattr("vlf_edge.runtime.work.JOIN_S", 0.3)
    camera, release = FakeCamera(), threading.Event()
    camera.hangs_when_opened = at == "opening"
    camera.absent = CameraError("off") if at == "waiting" else None
    held = run(camera.address)
    if at == "waiting":
        held.until("no_signal")
    elif at != "opening":
        eventually(lambda: camera.opened)
        held.give_slowly(camera, 1)
    if at == "hanging read":
        camera.source.deaf = True
    if at == "hanging engine":
        entered = hang(held, release, monkeypatch)
        camera.source.give(1)
        assert entered.wait(60)
    held.pipeline.close()  # nothing of this is waited for
    held.ended()
    assert held.error is None
    release.set()
    camera.released.set()
    if camera.opened:
        camera.source.end()


def test_a_close_that_does_not_wait_for_the_lock_ends_an_opening_that_begins_after_it(run, monkeypatch):
    begins, closed, begin = threading.Event(), threading.Event(), Capture._begin

    def begin_late(capture):
        begins.set()
        assert closed.wait(60)
        begin(capture)

    monkeypatch.setattr(Capture, "_begin", begin_late)
    camera = FakeCamera()
    held = run(camera.address)
    assert begins.wait(60)
    held.pipeline.close()
    closed.set()
    held.ended()
    assert held.error is None
    eventually(lambda: camera.opened and camera.source.closed)


# Faults in the stages between, as docs/reliability.md lists them.


def test_a_frame_that_cannot_be_cut_to_size_ends_its_stream_with_the_error(run, monkeypatch):
    door, dock = FakeCamera("door"), FakeCamera("dock")
    held = run({"door": door.address, "dock": dock.address})
    eventually(lambda: door.opened and dock.opened)
    held.give_slowly(dock, 1)
    monkeypatch.setattr(held.recognizer, "_preprocess", Fails(held.recognizer._preprocess, door))
    door.source.give(1)
    eventually(lambda: "ended" in held.states())
    assert held.report("door")["state"] == "failed"
    held.give_slowly(dock, 4)
    assert held.predictions[-1].state == "ok" and held.report("door")["last_error"] == "no memory for the picture"
    counts = held.recognizer.streams["door"].stats.counts
    assert (counts["captured"], counts["failed"]) == (1, 1)


class Fails:
    """Cuts frames to size, but for those of one camera."""

    def __init__(self, inner, camera: FakeCamera):
        self._inner, self._camera = inner, camera
        self._bad = 200
        camera.opened[-1].number = self._bad

    def __call__(self, image):
        if image[0, 0, 0] == self._bad:
            raise MemoryError("no memory for the picture")
        return self._inner(image)


@pytest.mark.parametrize("stage", ["frame", "clip"])
@pytest.mark.parametrize("shape", ["one class more", "an answer less"])
def test_an_answer_of_the_wrong_shape_ends_the_run_with_a_sentence(run, stage, shape):
    camera = FakeCamera()
    held = run(camera.address)
    eventually(lambda: camera.opened)
    engine = held.engines[stage]
    infer = engine._infer

    def wrong(inputs):
        ((name, found),) = infer(inputs).items()
        return {name: found[:0] if shape == "an answer less" else np.concatenate([found, found], axis=-1)}

    engine._infer = wrong
    held.give_slowly(camera, 4)
    held.ended()
    assert isinstance(held.error, ModelError) and "gave an output of (" in str(held.error)
    assert held.states().count("ok") == 0
