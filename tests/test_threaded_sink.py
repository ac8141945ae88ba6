"""Sinks on threads of their own: slow, failing and hanging ones cost their own steps only, and all of them count."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlf_edge import Event, Frame, Prediction, Runtime, Sink, ThreadedSink, open_source
from vlf_edge.backoff import Backoff

WAIT_S = 60
EVENT = Event("main", "wave", 0.0, None, 0.9, 1)


def step(number: int) -> tuple[Frame, Prediction]:
    return Frame(np.zeros((2, 2, 3), np.uint8), float(number), number, 0.0), Prediction("ok", 0, number, number, 0.0)


class Gate(Sink):
    """Takes steps only while it is open."""

    def __init__(self, fail_at: int | None = None):
        self.entered, self.open = threading.Event(), threading.Event()
        self.seen: list[int] = []
        self.closed, self._fail_at = False, fail_at

    def write(self, frame, prediction):
        self.entered.set()
        assert self.open.wait(WAIT_S)
        if prediction.seq == self._fail_at:
            raise OSError("no space left")
        self.seen.append(prediction.seq)

    def close(self):
        self.closed = True


def test_a_slow_sink_costs_its_own_steps_only():
    gate = Gate()
    sink = ThreadedSink(gate, capacity=3)
    sink.write(*step(0))
    assert gate.entered.wait(WAIT_S)
    for number in range(1, 10):
        sink.write(*step(number))  # none of these waits
    assert sink.dropped == 6
    gate.open.set()
    sink.close()
    sink.close()
    assert gate.seen == [0, 7, 8, 9] and gate.closed


def test_of_a_file_no_step_is_lost():
    gate = Gate()
    gate.open.set()
    with ThreadedSink(gate, capacity=2, drop_oldest=False) as sink:
        for number in range(50):
            sink.write(*step(number))
    assert gate.seen == list(range(50)) and sink.dropped == 0


def test_a_sink_that_hangs_is_left_alone(monkeypatch, caplog):
    monkeypatch.setattr("vlf_edge.runtime.sinks.threaded._CLOSE_S", 0.05)
    gate = Gate()
    sink = ThreadedSink(gate)
    sink.write(*step(0))
    sink.close()
    assert "Gate still hangs" in caplog.text
    gate.open.set()


class Steps(Sink):
    """Fails for as many attempts as it is told to. seen: what was written."""

    def __init__(self, failures: int = 0, error: type[BaseException] = OSError, at_close: bool = False):
        self.failures, self.error, self.at_close = failures, error, at_close
        self.seen: list = []
        self.attempts = 0

    def write(self, frame, prediction):
        self._take(prediction.seq)

    def write_event(self, event):
        self._take(event)

    def close(self):
        if self.at_close:
            raise OSError("no space left at the end")

    def _take(self, what):
        self.attempts += 1
        if self.attempts <= self.failures:
            raise self.error("no space left")
        self.seen.append(what)


class MockTime:
    """A clock that stands still but for the pauses that are asked of it."""

    def __init__(self):
        self.now_s, self.pauses_s = 100.0, []

    def __call__(self):
        return self.now_s

    def pause(self, seconds):
        self.pauses_s.append(seconds)
        self.now_s += seconds
        return False


def threaded(sink, time, **options):
    backoff = Backoff(first_s=1.0, cap_s=8.0, jitter=0.0)
    return ThreadedSink(sink, drop_oldest=False, backoff=backoff, clock=time, pause=time.pause, **options)


def test_a_step_that_fails_is_tried_again(caplog):
    time, steps = MockTime(), Steps(failures=2)
    with threaded(steps, time) as sink:
        for number in range(5):
            sink.write(*step(number))
    assert steps.seen == [0, 1, 2, 3, 4] and time.pauses_s == [1.0, 2.0]
    stats = sink.stats()
    assert (stats["written"], stats["failed"], stats["dropped"], stats["errors"]) == (5, 0, 0, 2)
    assert stats["state"] == "ok" and stats["last_error"] == "no space left"
    assert [record.message for record in caplog.records] == [
        "Steps fails, and is tried again while all else goes on: no space left",
        "Steps works again, after 3 s",
    ]


def test_a_step_is_given_up_after_three_attempts_and_pauses_grow_to_their_cap(caplog):
    time, steps = MockTime(), Steps(failures=3 * 4)
    with threaded(steps, time) as sink:
        for number in range(6):
            sink.write(*step(number))
    assert steps.seen == [4, 5] and time.pauses_s == [1.0, 2.0, 4.0, *[8.0] * 9]
    assert (sink.stats()["written"], sink.stats()["failed"], sink.stats()["errors"]) == (2, 4, 12)
    assert "Steps lacks steps and events: 4 failed; the last error was: no space left" in caplog.text
    assert caplog.text.count("is tried again") == 1, "told once"


@settings(max_examples=40, deadline=None)
@given(
    fails=st.lists(st.booleans(), max_size=60),
    are_events=st.lists(st.booleans(), min_size=1, max_size=30),
    capacity=st.integers(1, 5),
    drop_oldest=st.booleans(),
)
def test_nothing_is_doubled_and_every_item_is_counted_once(fails, are_events, capacity, drop_oldest):
    """Whatever attempts fail: what is written comes in order and once, and the counts add up."""
    time, steps, left = MockTime(), Steps(), list(fails)

    def take(what):
        if left and left.pop():
            raise OSError("no space left")
        steps.seen.append(what)

    steps._take = take
    sink = ThreadedSink(steps, capacity=capacity, drop_oldest=drop_oldest, clock=time, pause=time.pause)
    for number, is_event in enumerate(are_events):
        sink.write_event(replace(EVENT, id=number)) if is_event else sink.write(*step(number))
    sink.close()
    stats = sink.stats()
    numbers = [one if isinstance(one, int) else one.id for one in steps.seen]
    assert stats["written"] == len(numbers) == len(set(numbers)) and numbers == sorted(numbers)
    assert stats["written"] + stats["failed"] + stats["dropped"] == len(are_events) and stats["waiting"] == 0
    assert drop_oldest or not stats["dropped"]
    if not any(fails) and not stats["dropped"]:
        assert numbers == list(range(len(are_events)))


def test_at_the_end_nobody_waits_for_a_pause():
    steps = Steps(failures=1000)
    with ThreadedSink(steps, backoff=Backoff(first_s=3600.0, cap_s=3600.0)) as sink:
        for number in range(10):
            sink.write(*step(number))
    assert sink.stats()["failed"] == 10 and steps.seen == []


def test_what_a_sink_may_end_the_run_with_is_raised():
    sink = threaded(Steps(failures=1, error=BrokenPipeError), MockTime(), raises=(BrokenPipeError,))
    with pytest.raises(BrokenPipeError):
        for number in range(1000):
            sink.write(*step(number))
            sink._thread.join(0.05)
    sink.close()


def test_an_output_that_cannot_be_finished_is_known():
    sink = threaded(Steps(at_close=True), MockTime())
    sink.write(*step(0))
    sink.close()
    assert str(sink.unfinished) == "no space left at the end" and sink.stats()["state"] == "failing"


def test_events_and_ends_of_streams_are_dropped_last():
    gate = Gate()
    gate.write_event = gate.seen.append
    sink = ThreadedSink(gate, capacity=4)
    sink.write(*step(0))
    assert gate.entered.wait(WAIT_S)
    sink.write_event(EVENT)
    sink.write(None, Prediction("ended", 0.0, 0.0, -1, 0.0))
    for number in range(1, 10):
        sink.write(*step(number))
    gate.open.set()
    sink.close()
    assert gate.seen == [0, EVENT, -1, 8, 9] and sink.stats()["dropped"] == 7


def test_a_sink_that_hangs_costs_a_file_its_patience_once(caplog):
    time, gate = MockTime(), Gate()
    sink = ThreadedSink(gate, capacity=2, drop_oldest=False, patience_s=0.05, clock=time)
    sink.write(*step(0))
    assert gate.entered.wait(WAIT_S) and sink.stats()["state"] == "ok"
    time.now_s += 1.0
    for number in range(1, 200):
        sink.write(*step(number))  # with a wait for each it would take ten seconds
    assert sink.stats() | {"since_s": 0} == {
        "name": "Gate", "state": "hanging", "since_s": 0, "unit": "steps and events", "written": 0, "dropped": 197,
        "failed": 0, "errors": 1, "last_error": "it has not come back from a write for 0 s", "waiting": 2,
    }  # fmt: skip
    gate.open.set()
    sink.close()
    assert gate.seen == [0, 198, 199] and sink.stats()["state"] == "ok"
    assert [record.message.partition(",")[0] for record in caplog.records[:2]] == ["Gate fails", "Gate works again"]


def test_a_run_goes_on_whatever_its_sinks_do(toy_plan, images):
    """A sink that always fails and one that hangs, beside one that works: it gets every decision."""
    hanging, failing, works = Gate(), Steps(failures=10**9, error=ValueError), Steps()
    sinks = [ThreadedSink(hanging, patience_s=0.01, drop_oldest=False), ThreadedSink(failing), ThreadedSink(works)]
    with Runtime(toy_plan, backend="fake") as runtime:
        threading.Timer(0.5, hanging.open.set).start()
        runtime.run(images, sinks, fps=20)
        assert len(works.seen) == 8
        stats = runtime.stats()["sinks"]
    assert [one["state"] for one in stats] == ["ok", "failing", "ok"] and stats[1]["last_error"] == "no space left"
    assert [one["written"] + one["failed"] + one["dropped"] for one in stats] == [8, 8, 8]


def test_pauses_double_and_are_shortened_at_random():
    backoff = Backoff(first_s=0.5, cap_s=10.0, jitter=0.5)
    assert [backoff.delay_s(n, lambda: 0.0) for n in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.delay_s(10**9, lambda: 0.5) == 7.5


HANGING = """
import sys, time, threading
import numpy as np
from vlf_edge import Runtime, Sink, Source, ThreadedSink, VideoSink, signals

class Camera(Source):
    live, fps = True, 20.0
    def read(self):
        time.sleep(0.01)
        if self._seq == 50:
            print("enough frames", flush=True)
        return self._frame(np.zeros((48, 64, 3), np.uint8), self._seq / 20)

class Hangs(Sink):
    def write(self, frame, prediction):
        print("hangs", flush=True)
        threading.Event().wait()

signals._GRACE_S = 60.0  # for machines that others use too

def main():
    camera = Camera("camera")
    with signals.telling(), Runtime(sys.argv[1], backend="fake") as runtime:
        runtime.run(camera, [ThreadedSink(VideoSink(sys.argv[2], camera)), ThreadedSink(Hangs())])
    return 0

signals.run(main)
"""


def test_ctrl_c_ends_beside_a_sink_that_hangs(toy_plan, tmp_path):
    words = [sys.executable, "-c", HANGING, str(toy_plan.path), str(tmp_path / "out.avi")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert sorted(process.stdout.readline() for _ in range(2)) == ["enough frames\n", "hangs\n"]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, said
    assert len(list(open_source(tmp_path / "out.avi"))) > 3, "the other sink's video is whole"
