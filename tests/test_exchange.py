"""Sources that are exchanged while a run goes on: the others never notice, and no window is mixed."""

from __future__ import annotations

import threading
from collections import defaultdict

import numpy as np
import pytest
from clocks import eventually
from conftest import toy_manifest
from fake_cameras import FakeCamera
from hypothesis import given, settings
from hypothesis import strategies as st
from test_accounting import adds_up
from test_pipeline import SilentSource, our_threads, toy_recognizer
from test_recognizer import fake_engines

from vlf_edge import Camera, CameraError, Limits, Runtime, SourceError, VlfError
from vlf_edge.errors import BackendMissing
from vlf_edge.runtime.event_settings import EventSettings
from vlf_edge.runtime.pipeline import Pipeline
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.sinks import Sink
from vlf_edge.video.sources import Address, Source

STEP_S, GUARD_S = 0.25, 60.0


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(our_threads())  # a sink that hangs for ever, of another test
    yield
    eventually(lambda: not set(our_threads()) - before, "a thread is left")


def images_of(number: int) -> list[np.ndarray]:
    """The frames of one source, unlike those of any other."""
    rng = np.random.default_rng(number)
    return list(rng.integers(0, 256, (14, 32, 32, 3), np.uint8))


class Tap(Source):
    """A file whose frames come when the test lets them."""

    def __init__(self, number: int):
        super().__init__(f"tap {number}")
        self._images, self._changed = images_of(number), threading.Condition()
        self._allowed, self.closed, self.read_all, self.error = 0, False, False, None

    def give(self, count: int) -> None:
        with self._changed:
            self._allowed += count
            self._changed.notify_all()

    def read(self):
        with self._changed:
            if self._seq == len(self._images):
                self.read_all = True
                return None
            assert self._changed.wait_for(lambda: self._allowed > self._seq or self.closed, GUARD_S), "never allowed"
            if self.closed:
                return None
        if self.error is not None:
            raise self.error
        return self._frame(self._images[self._seq], self._seq * STEP_S)

    def close(self):
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class Watched:
    """A pipeline, with a thread that takes its steps and looks whether the counts add up after each."""

    def __init__(self, sources, **known):
        self.recognizer = toy_recognizer()
        self.pipeline = Pipeline(self.recognizer, sources, **known)
        self.steps, self.error = defaultdict(list), None
        self.thread = threading.Thread(target=self._take, daemon=True)
        self.thread.start()

    def _take(self):
        try:
            for step in self.pipeline:
                self.steps[step.stream].append(step)
                counts = [stream.stats.summary()["counts"] for stream in list(self.recognizer.streams.values())]
                assert all(map(adds_up, counts)), counts
        except BaseException as error:
            self.error = error

    def wait(self):
        self.thread.join(GUARD_S)
        assert not self.thread.is_alive(), "the run does not end"


def decided_alone(number: int) -> list[tuple[str, np.ndarray | None]]:
    recognizer = toy_recognizer()
    found = [recognizer.push(image, i * STEP_S) for i, image in enumerate(images_of(number))]
    return [(one.state, one.logits) for one in found]


def lives(steps) -> list[list]:
    """The steps of a stream, one list for each source that it had; each has its end, and nothing comes after that."""
    found = [[]]
    for step in steps:
        if step.is_end:
            assert step.frame is None and step.prediction.seq == -1
            found.append([])
        else:
            found[-1].append(step)
    assert found.pop() == [], "a stream without an end"
    return found


def check_same(steps, alone, *, whole: bool) -> None:
    """These steps are the first, or all, of what the source gives alone."""
    assert len(steps) == len(alone) if whole else len(steps) <= len(alone)
    for number, (step, (state, logits)) in enumerate(zip(steps, alone)):
        assert (step.frame.seq, step.prediction.state) == (number, state)
        if logits is not None:
            np.testing.assert_array_equal(step.prediction.logits, logits)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "replace"] + ["give"] * 4), st.integers(0, 9), st.integers(1, 6)),
        max_size=20,
    )
)
def test_any_exchange_leaves_the_others_alone_and_mixes_no_window(happenings):
    made = iter(range(1000))
    sources, numbers = {}, defaultdict(list)

    def tap(name):
        number = next(made)
        sources[name] = Tap(number)
        numbers[name].append(number)
        return sources[name]

    run = Watched({name: tap(name) for name in ("stays", "a", "b")})
    for what, which, count in happenings:
        names = sorted(sources.keys() - {"stays"})
        name = names[which % len(names)] if names else None
        if what == "give":
            sources[sorted(sources)[which % len(sources)]].give(count)
        elif what == "add":
            new = f"new {which}"
            if new not in sources:
                run.pipeline.exchange([], {new: tap(new)})
        elif name is not None and what == "remove":
            before = sources.pop(name)
            run.pipeline.exchange([name], {})
            assert before.closed
        elif name is not None:
            run.pipeline.exchange([name], {name: tap(name)})
    for source in list(sources.values()):
        source.give(1000)
    run.wait()
    assert run.error is None
    for name, known in numbers.items():
        found = lives(run.steps[name])
        assert len(found) == len(known)
        for place, number in enumerate(known):
            check_same(found[place], decided_alone(number), whole=name in sources and place == len(known) - 1)
    counts = run.recognizer.total().counts
    assert adds_up(counts) and counts["waiting"] == 0
    delivered = sum(step.prediction.state == "ok" for steps in run.steps.values() for step in steps)
    assert delivered <= counts["decisions"] <= delivered + counts["undelivered"]


def test_replacing_the_last_stream_does_not_end_the_run_and_removing_it_does():
    first, second = Tap(1), Tap(2)
    run = Watched({"door": first})
    run.pipeline.exchange(["door"], {"door": second})
    second.give(6)
    eventually(lambda: len(run.steps["door"]) == 7)
    assert run.thread.is_alive() and run.pipeline.reports()["door"]["source"] == "tap 2"
    run.pipeline.exchange(["door"], {})
    run.wait()
    assert run.error is None and run.steps["door"][-1].is_end and second.closed
    assert run.pipeline.reports()["door"]["state"] == "ended"
    with pytest.raises(VlfError, match="the run is over"):
        run.pipeline.exchange([], {"late": Tap(3)})


def test_errors_leave_everything_as_it_was():
    tap, spare = Tap(1), Tap(2)
    run = Watched({"door": tap})
    for gone, new, message in [
        (["dor"], {}, "no stream 'dor' to be ended; running: door"),
        ([], {"door": spare}, "a stream 'door' already"),
        (["door", "dor"], {"yard": spare}, "no stream 'dor'"),
        (["door"], {str(i): spare for i in range(2000)}, "in use"),
    ]:
        with pytest.raises(VlfError, match=message):
            run.pipeline.exchange(gone, new)
    assert not tap.closed and not spare.closed and list(run.recognizer.streams) == ["door"]
    tap.give(1000)
    run.wait()
    check_same(run.steps["door"], decided_alone(1), whole=True)


def test_a_read_that_hangs_is_left_behind_and_what_it_gives_later_never_enters():
    class Deaf(Tap):
        def close(self):
            pass

    deaf, second = Deaf(1), Tap(2)
    run = Watched({"door": deaf})
    deaf.give(3)
    eventually(lambda: len(run.steps["door"]) == 3)
    run.pipeline.exchange(["door"], {"door": second})
    second.give(5)
    eventually(lambda: len(run.steps["door"]) == 9)
    deaf.give(1000)  # it comes back, in the middle of the other's window
    second.give(1000)
    run.wait()
    old, new = lives(run.steps["door"])
    check_same(old, decided_alone(1), whole=False)
    check_same(new, decided_alone(2), whole=True)
    assert adds_up(run.recognizer.total().counts)


def test_a_file_that_waits_for_room_can_be_removed():
    class Held(Recognizer):
        def decide(self, due):
            assert gate.wait(GUARD_S)
            return super().decide(due)

    gate, manifest, full, other = threading.Event(), toy_manifest(), Tap(1), Tap(2)
    recognizer = Held(manifest, fake_engines(manifest))
    with Pipeline(recognizer, {"full": full, "other": other}) as pipeline:
        full.give(1000)
        eventually(lambda: recognizer.streams["full"].stats.counts["captured"] == 10)  # one runs, eight wait, one more
        threading.Timer(0.05, gate.set).start()
        pipeline.exchange(["full"], {})
        other.give(1000)
        assert sum(step.stream == "other" and not step.is_end for step in pipeline) == 14
    counts = recognizer.streams["full"].stats.counts
    assert adds_up(counts) and counts["waiting"] == 0 and counts["dropped_at_end"] > 0


def test_a_camera_is_closed_before_another_opens_it():
    """A device can be opened but once."""
    camera, order = FakeCamera(), []

    def address(name):
        def opened():
            order.append(("open", name, [source.closed for source in camera.opened]))
            return camera.address.open()

        return Address(name, True, opened, again=True)

    run = Watched({"door": address("first"), "other": Tap(1)})
    eventually(lambda: camera.opened)
    for count in range(1, 6):  # one at a time: of a camera the newest counts
        camera.source.give(1)
        eventually(lambda count=count: len(run.steps["door"]) == count)
    run.pipeline.exchange(["door"], {"door": address("second")})
    eventually(lambda: len(camera.opened) == 2)
    assert order == [("open", "first", []), ("open", "second", [True])]
    for count in range(7, 12):
        camera.source.give(1)
        eventually(lambda count=count: len(run.steps["door"]) == count)
    states = [step.prediction.state for step in run.steps["door"]]
    assert states == ["warming"] * 3 + ["ok"] * 2 + ["ended"] + ["warming"] * 3 + ["ok"] * 2
    run.pipeline.close()
    run.wait()


def test_a_camera_that_was_given_up_and_is_replaced_is_no_error_of_the_run():
    camera = FakeCamera()
    camera.absent = CameraError("nothing there")
    other = Tap(1)
    run = Watched({"door": camera.address, "other": other}, limits=Limits(max_retries=0))
    eventually(lambda: run.pipeline.reports()["door"]["state"] == "failed")
    second = Tap(2)
    run.pipeline.exchange(["door"], {"door": second})
    second.give(1000), other.give(1000)
    run.wait()
    assert run.error is None
    check_same(lives(run.steps["door"])[1], decided_alone(2), whole=True)


def test_a_camera_that_joins_and_can_never_be_ends_no_other():
    def missing():
        raise BackendMissing("no such library")

    tap = Tap(1)
    run = Watched({"door": tap})
    run.pipeline.exchange([], {"bad": Address("bad", True, missing, again=True)})
    eventually(lambda: run.pipeline.reports()["bad"]["state"] == "failed")
    tap.give(1000)
    run.wait()
    check_same(*lives(run.steps["door"]), decided_alone(1), whole=True)
    assert isinstance(run.error, BackendMissing), "told at the end"


def test_a_runtime_closes_what_it_has_opened_for_nothing(toy_plan, tmp_path):
    class Counted(SilentSource):
        made = []

        def __init__(self):
            super().__init__()
            self.made.append(self)

    with Runtime(toy_plan, backend="fake") as runtime:
        with pytest.raises(VlfError, match="nothing runs"):
            runtime.change_sources([], {"a": Counted()})
        pipeline = runtime.pipeline({"door": SilentSource()})
        good = Address("good", False, Counted)
        with pytest.raises(SourceError, match="none.mp4"):
            runtime.change_sources([], {"a": good, "b": str(tmp_path / "none.mp4")})
        with pytest.raises(VlfError, match="already"):
            runtime.change_sources([], {"door": good})
        assert all(source.closed.is_set() for source in Counted.made[1:]) and len(Counted.made) == 3
        assert list(pipeline.reports()) == ["door"]


SURE = EventSettings(threshold=0.01, leave=0.01, min_s=0, ignore=())


class Collected(Sink):
    def __init__(self):
        self.seen, self.events = [], []

    def write(self, frame, prediction):
        self.seen.append((prediction.stream, prediction.state))

    def of(self, stream):
        return [state for name, state in self.seen if name == stream and state in ("warming", "ok")]

    def write_event(self, event):
        self.seen.append((event.stream, "begins" if event.t_end_s is None else "ends"))
        self.events.append(event)


def test_events_of_a_stream_that_is_removed_end_with_it(toy_plan):
    kept, sink = FakeCamera(), Collected()
    camera = FakeCamera()
    with Runtime(toy_plan, backend="fake") as runtime:
        known = {"events": SURE}
        sources = {"door": camera.address, "kept": kept.address}
        thread = threading.Thread(target=runtime.run, args=(sources, [sink]), kwargs=known, daemon=True)
        thread.start()
        eventually(lambda: camera.opened and kept.opened)
        for count in range(1, 7):
            camera.source.give(1), kept.source.give(1)
            eventually(lambda count=count: len(sink.of("door")) == len(sink.of("kept")) == count)
        eventually(lambda: ("door", "begins") in sink.seen and ("kept", "begins") in sink.seen)
        runtime.change_sources(["door"])
        eventually(lambda: ("door", "ended") in sink.seen)
        assert sink.seen[sink.seen.index(("door", "ended")) - 1] == ("door", "ends")
        assert ("kept", "ends") not in sink.seen and runtime.stats()["streams"]["door"]["state"] == "ended"
        runtime.change_sources(["kept"])
        thread.join(GUARD_S)
        assert not thread.is_alive()


def test_a_stream_that_takes_anothers_place_brings_its_own_settings(toy_plan):
    first, second, third, kept, sink = Tap(1), Tap(1), Tap(1), Tap(2), Collected()
    with Runtime(toy_plan, backend="fake") as runtime:
        sources = {"door": Camera(first, events=EventSettings(threshold=0.99)), "kept": kept}
        thread = threading.Thread(target=runtime.run, args=(sources, [sink]), kwargs={"events": SURE}, daemon=True)
        thread.start()
        first.give(8)
        eventually(lambda: len(sink.of("door")) == 8)
        with pytest.raises(VlfError, match="door: --event-ignore names 'jump', which is no label"):
            runtime.change_sources(["door"], {"door": Camera(third, events=EventSettings(ignore=("jump",)))})
        assert third.closed and not first.closed and sink.events == []
        runtime.change_sources(["door"], {"door": Camera(second, limits=Limits(), events=SURE)})
        second.give(1000)
        eventually(lambda: sink.seen.count(("door", "ended")) == 2)
        assert [event.stream for event in sink.events][:2] == ["door", "door"]
        kept.give(1000)
        thread.join(GUARD_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("what", ["a file that is over", "a file that fails", "a camera that is given up"])
def test_events_of_a_stream_that_ends_by_itself_end_with_it(toy_plan, what):
    kept, sink, camera, errors = Tap(2), Collected(), FakeCamera(), []
    door = camera.address if "camera" in what else Tap(1)

    def play():
        try:
            runtime.run({"door": door, "kept": kept}, [sink], limits=Limits(max_retries=0), events=SURE)
        except VlfError as error:
            errors.append(str(error))

    with Runtime(toy_plan, backend="fake") as runtime:
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        for count in range(1, 7):
            if "camera" in what:
                eventually(lambda: camera.opened)
            (camera.source if "camera" in what else door).give(1), kept.give(1)
            eventually(lambda count=count: len(sink.of("door")) == len(sink.of("kept")) == count)
        if "camera" in what:
            camera.source.fail(CameraError("unplugged"))
        elif "over" in what:
            door.give(1000)
        else:
            door.error = SourceError("a broken tail")
            door.give(1)
        eventually(lambda: ("door", "ended") in sink.seen)
        assert sink.seen[sink.seen.index(("door", "ended")) - 1] == ("door", "ends")
        assert ("kept", "ends") not in sink.seen and thread.is_alive()
        (ended,) = [one for one in sink.events if one.stream == "door" and one.t_end_s is not None]
        assert ended.t_end_s == (13 if "over" in what else 5) * STEP_S, "the last decision"
        kept.give(1000)
        thread.join(GUARD_S)
    assert not thread.is_alive() and sink.seen.count(("door", "ended")) == 1
    assert sink.seen[-2:] == [("kept", "ends"), ("kept", "ended")]
    assert len(errors) == (0 if "over" in what else 1)


def test_a_run_of_one_stream_ends_without_a_word(toy_plan):
    with Runtime(toy_plan, backend="fake") as runtime:
        alone = [one.state for one in runtime.stream({"door": zip(images_of(1), np.arange(14) * STEP_S)})]
        assert alone == ["warming"] * 3 + ["ok"] * 11
        two = {name: zip(images_of(1), np.arange(14) * STEP_S) for name in ("door", "dock")}
        found = list(runtime.stream(two))
        for name in two:
            assert [one.state for one in found if one.stream == name] == [*alone, "ended"]
