"""Threads: nothing hangs, nothing is lost without being counted, and every error reaches the caller."""

import threading
import time

import numpy as np
import pytest
from clocks import eventually
from conftest import toy_manifest
from test_recognizer import fake_engines

from vlf_edge import Frame, Sampling, SourceError, VlfError
from vlf_edge.runtime.pipeline import Pipeline
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.sinks import PrintSink
from vlf_edge.video.sources import IterableSource, Source

DEADLINE_S = 60


class ScriptedSource(Source):
    """Gives ``images`` at their times; may be live, slow, or fail at the end."""

    def __init__(self, images, times_s, *, live=False, pause_s=0.0, error=None):
        super().__init__("scripted")
        self.live, self._pause_s, self._error = live, pause_s, error
        self._items = list(zip(images, times_s))
        self.closed = threading.Event()

    def read(self):
        if self._seq == len(self._items) or self.closed.is_set():
            if self._error and not self.closed.is_set():
                raise self._error
            return None
        time.sleep(self._pause_s)
        return self._frame(*self._items[self._seq])

    def close(self):
        self.closed.set()


class SilentSource(Source):
    """A camera that hangs in read until it is closed."""

    live = True

    def __init__(self):
        super().__init__("silent")
        self.closed, self.reading = threading.Event(), threading.Event()

    def read(self) -> Frame | None:
        self.reading.set()
        assert self.closed.wait(DEADLINE_S)
        return None

    def close(self):
        self.closed.set()


def toy_recognizer(sampling=None, **engine_options):
    manifest = toy_manifest()
    return Recognizer(manifest, fake_engines(manifest, **engine_options), sampling=sampling)


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vlf-")]


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(our_threads())  # a sink that hangs for ever, of another test
    yield
    deadline_s = time.monotonic() + DEADLINE_S
    while set(our_threads()) - before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not set(our_threads()) - before


def grid(count):
    return [i * 0.25 for i in range(count)]


def test_threads_change_nothing_about_the_decisions(images):
    alone, threaded = toy_recognizer(), toy_recognizer()
    expected = [alone.push(image, t) for image, t in zip(images, grid(40))]
    steps = list(Pipeline(threaded, ScriptedSource(images, grid(40))))
    assert len(steps) == 40
    for step, other in zip(steps, expected):
        assert step.prediction.state == other.state
        if other.state == "ok":
            np.testing.assert_array_equal(step.prediction.logits, other.logits)


def test_a_file_waits_for_a_slow_engine(images):
    toy = toy_recognizer(delay_s=0.002)
    steps = list(Pipeline(toy, ScriptedSource(images, grid(40))))
    assert [step.frame.seq for step in steps] == list(range(40)) and toy.total().counts["dropped"] == 0


def test_a_camera_drops_the_oldest_and_every_frame_is_accounted_for(images):
    toy = toy_recognizer(sampling=Sampling(4, 0.04), delay_s=0.02)
    source = ScriptedSource(images, [i * 0.01 for i in range(40)], live=True, pause_s=0.001)
    steps = list(Pipeline(toy, source))
    counts = toy.total().counts
    assert counts["dropped"] > 0
    assert counts["captured"] == 40 == counts["encoded"] + counts["off_grid"] + counts["dropped"]
    assert steps[-1].frame.seq == 39, "the newest frame is never the one dropped"
    assert sum(step.prediction.dropped for step in steps) == counts["dropped"]


def test_every_frame_hands_over_the_frames_between(images):
    source = ScriptedSource(images, [i / 40 for i in range(40)])
    steps = list(Pipeline(toy_recognizer(), source, every_frame=True))
    assert [step.frame.seq for step in steps] == list(range(40))
    assert [step.frame.seq for step in steps if step.prediction] == [0, 10, 20, 30]


def test_failing_source_surfaces_after_what_was_decided(images):
    source = ScriptedSource(images[:6], grid(6), error=SourceError("lens fell off"))
    seen = []
    with pytest.raises(SourceError, match="lens fell off"):
        for step in Pipeline(toy_recognizer(), source):
            seen.append(step.frame.seq)
    assert seen == list(range(6)) and source.closed.is_set()


def test_failing_engine_surfaces(images):
    source, seen = ScriptedSource(images, grid(40)), []
    with pytest.raises(VlfError, match="fails on call 3"):
        for step in Pipeline(toy_recognizer(fail_on_call=3), source):
            seen.append(step.frame.seq)
    assert seen == [0, 1] and source.closed.is_set()


def test_failing_engine_wakes_a_source_that_waits_to_send(images):
    endless = IterableSource((images[i % 40], i * 0.25) for i in range(10_000))
    with pytest.raises(VlfError, match="fails on call 2"):
        list(Pipeline(toy_recognizer(fail_on_call=2), endless))


def test_failing_frame_surfaces(images):
    bad = [*images[:3], images[0].astype(np.float32)]
    with pytest.raises(VlfError, match="float32"):
        list(Pipeline(toy_recognizer(), IterableSource(bad)))


def test_failing_sink_is_the_callers_own_error_and_ends_the_threads(images):
    class FullDisk:
        def write(self, text):
            raise OSError("no space left")

        def flush(self):
            pass

    source = ScriptedSource(images, grid(40))
    with pytest.raises(OSError, match="no space left"):
        with Pipeline(toy_recognizer(), source) as steps:
            for frame, prediction in steps:
                PrintSink(FullDisk()).write(frame, prediction)
    assert source.closed.is_set()


def test_caller_that_stops_listening_ends_everything(images):
    source = ScriptedSource(images, grid(40))
    for _ in Pipeline(toy_recognizer(), source):
        break
    deadline_s = time.monotonic() + DEADLINE_S
    while not source.closed.is_set() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert source.closed.is_set()


def test_close_returns_while_the_camera_hangs():
    source = SilentSource()
    pipeline = Pipeline(toy_recognizer(), source)
    assert source.reading.wait(DEADLINE_S)
    pipeline.close()
    pipeline.close()
    assert list(pipeline) == []


def test_a_source_that_ignores_close_is_named(images, caplog, monkeypatch):
    monkeypatch.setattr("vlf_edge.runtime.work._READ_S", 0.1)
    release = threading.Event()

    class Deaf(SilentSource):
        def read(self):
            self.reading.set()
            assert release.wait(DEADLINE_S)
            return None

    source = Deaf()
    pipeline = Pipeline(toy_recognizer(), source)
    assert source.reading.wait(DEADLINE_S)
    pipeline.close()
    pipeline.close()
    said = ["silent still hangs in a read or an opening 0.1 s after it was closed"]
    assert [record.message for record in caplog.records] == said
    release.set()


def test_a_close_waits_for_what_the_thread_that_infers_has_closed_already():
    goes_on = threading.Event()

    class Slow(SilentSource):
        def read(self):
            super().read()
            assert goes_on.wait(DEADLINE_S)
            return None

    source = Slow()
    pipeline = Pipeline(toy_recognizer(), source)
    assert source.reading.wait(DEADLINE_S)
    (capture,) = pipeline._work.captures
    (reading,) = (thread for thread in capture.close() if thread.name == "vlf-capture")
    assert reading in capture.close() and reading.is_alive()
    goes_on.set()
    pipeline.close()
    assert not reading.is_alive()


def test_many_sources_each_decide_as_alone(images):
    toy = toy_recognizer()
    sources = {f"file {n}": ScriptedSource(images[n : n + 20], grid(20)) for n in range(6)}
    found = {name: [] for name in sources}
    for step in Pipeline(toy, sources):
        assert step.is_end or step.frame.stream == step.prediction.stream
        found[step.stream].append(step.prediction)
    for n, (name, predictions) in enumerate(found.items()):
        alone, ended = toy_recognizer(), predictions.pop()
        assert (ended.state, ended.seq, ended.t_end_s, ended.label) == ("ended", -1, 19 * 0.25, None)
        for got, (image, t_s) in zip(predictions, zip(images[n:], grid(20)), strict=False):
            want = alone.push(image, t_s)
            assert got.state == want.state
            if want.state == "ok":
                np.testing.assert_array_equal(got.logits, want.logits)
        assert len(predictions) == 20, name


def test_a_source_that_fails_ends_its_own_stream_only(images, caplog):
    toy = toy_recognizer()
    sources = {
        "bad": ScriptedSource(images[:2], grid(2), error=SourceError("lens fell off")),
        "good": ScriptedSource(images, grid(40)),
    }
    seen = []
    with pytest.raises(SourceError, match="lens fell off"):
        for step in Pipeline(toy, sources):
            seen.append((step.stream, step.is_end))
    assert seen.count(("good", False)) == 40 and seen.count(("bad", False)) == 2
    assert seen.index(("bad", True)) > 1 and seen[-1] == ("good", True) and len(seen) == 44
    assert [r.message for r in caplog.records] == ["bad has ended, the other streams go on: lens fell off"]


def test_the_newest_decision_of_a_camera_wins_and_is_as_old_as_it_says(images):
    toy = toy_recognizer()

    class Patient(ScriptedSource):
        """Of its last ten frames none is dropped, so that the last window is whole on a busy machine too."""

        def read(self):
            if self._seq >= 30:
                eventually(lambda: toy.total().counts["waiting"] == 0)
            return super().read()

    source = Patient(images, grid(40), live=True, pause_s=0.001)
    with Pipeline(toy, source) as pipeline:
        deadline_s = time.monotonic() + DEADLINE_S
        while pipeline.running and time.monotonic() < deadline_s:  # the caller is away
            time.sleep(0.005)
        away_since_s = time.monotonic()
        time.sleep(0.05)
        away_s = time.monotonic() - away_since_s
        (step,) = pipeline
    counts = toy.total().counts
    assert step.frame.seq == 39 and step.prediction.state == "ok"
    assert step.prediction.age_ms >= away_s * 1e3 * 0.5
    assert counts["undelivered"] == counts["encoded"] - 1
    assert step.prediction.dropped == counts["dropped"], "what went with undelivered decisions is told by the next"


def test_a_pipeline_that_is_dropped_ends_its_threads_and_its_camera(images):
    source = SilentSource()
    pipeline = Pipeline(toy_recognizer(), source)
    del pipeline
    import gc

    gc.collect()
    assert source.closed.wait(DEADLINE_S)


def test_close_returns_while_an_engine_hangs(images, caplog, monkeypatch):
    monkeypatch.setattr("vlf_edge.runtime.work.JOIN_S", 0.1)
    release, entered = threading.Event(), threading.Event()
    toy = toy_recognizer()

    def hang(due):
        entered.set()
        return release.wait(DEADLINE_S) and [None] * len(due)

    monkeypatch.setattr(toy.executor, "step", hang)
    pipeline = Pipeline(toy, ScriptedSource(images, grid(40)))
    assert entered.wait(DEADLINE_S)
    pipeline.close()
    assert "the engine still hangs in a run" in caplog.text
    release.set()
