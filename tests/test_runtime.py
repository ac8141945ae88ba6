"""Runtime around the fake backend: its life, and what it refuses."""

import threading

import numpy as np
import pytest

from vlf_edge import Plan, Runtime, SourceError, VlfError


@pytest.fixture
def runtime(toy_plan):
    with Runtime(toy_plan.path, backend="fake") as opened:
        yield opened


def timed(images):
    return [(image, i * 0.25) for i, image in enumerate(images)]


def test_streams_one_after_another_each_from_a_fresh_window(runtime, images):
    for _ in range(2):
        states = [p.state for p in runtime.stream(timed(images[:6]))]
        assert states == ["warming"] * 3 + ["ok"] * 3


def test_leaving_a_stream_early_frees_the_runtime_for_the_next(runtime, images):
    for prediction in runtime.stream(timed(images)):
        if prediction.state == "ok":
            break
    assert len(list(runtime.stream(timed(images)))) == 40


def test_two_streams_at_once_are_refused(runtime, images):
    endless = ((images[i % 40], i * 0.25) for i in range(10**9))
    first = runtime.stream(endless)
    next(first)
    with pytest.raises(VlfError, match="already streaming from generator: end that stream first"):
        next(runtime.stream(timed(images)))
    first.close()
    assert len(list(runtime.stream(timed(images)))) == 40


def test_the_stream_has_the_runtime_to_itself(runtime, images):
    stream = runtime.stream((images[i % 40], i * 0.25) for i in range(10**9))
    next(stream)
    for call in (lambda: runtime.push(images[0]), lambda: runtime.classify(images), runtime.reset):
        with pytest.raises(VlfError, match="already streaming"):
            call()
    stream.close()
    assert runtime.push(images[0], 0.0).state in ("warming", "gap")


def test_close_ends_a_running_stream(toy_plan, images):
    runtime = Runtime(toy_plan, backend="fake")
    steps = runtime.pipeline((images[i % 40], i * 0.25) for i in range(10**9))
    next(iter(steps))
    runtime.close()
    runtime.close()
    assert not steps.running


def test_push_classify_stats_and_labels(runtime, images):
    for image, t in timed(images[:8]):
        prediction = runtime.push(image, t)
    assert runtime.backend == "fake" and prediction.label in runtime.labels
    assert runtime.classify(images).state == "ok"
    stats = runtime.stats()
    assert stats["backend"] == "fake" and stats["counts"]["decisions"] == 5 and sum(stats["labels"].values()) == 5
    assert runtime.summary().startswith("5 decisions: ") and runtime.summary().endswith("on fake")
    runtime.reset()
    assert runtime.push(images[0], 100.0).state == "warming"


def test_plan_by_path_text_or_object(toy_plan):
    for plan in (toy_plan, toy_plan.path, str(toy_plan.path)):
        with Runtime(plan, backend="fake") as runtime:
            assert isinstance(runtime.plan, Plan)


@pytest.mark.parametrize("options, message", [({"phases": 0}, "phases is 0"), ({"topk": 0}, "topk is 0")])
def test_refusals(toy_plan, options, message):
    with pytest.raises(VlfError, match=message):
        Runtime(toy_plan, backend="fake", **options)


def test_classify_of_nothing(runtime):
    with pytest.raises(SourceError, match="holds no frames"):
        runtime.classify("test://motion?seconds=0.001")


def test_classify_refuses_a_camera(runtime, monkeypatch, images):
    from vlf_edge.video.sources import IterableSource

    camera = IterableSource(images)
    camera.live = True
    monkeypatch.setattr("vlf_edge.runtime.whole_clip.open_source", lambda name: camera)
    with pytest.raises(SourceError, match="never ends"):
        runtime.classify("0")


def test_two_threads_at_once_are_refused_in_one_sentence(runtime, images):
    inside, leave = threading.Event(), threading.Event()
    step = runtime.recognizer.executor.step

    def slow(due):
        inside.set()
        leave.wait(60)
        return step(due)

    runtime.recognizer.executor.step = slow
    thread = threading.Thread(target=runtime.push, args=(images[0], 0.0))
    thread.start()
    assert inside.wait(60)
    for call in (lambda: runtime.push(images[1], 0.25), lambda: runtime.classify(images), runtime.reset):
        with pytest.raises(VlfError, match="used by another thread at this moment: give each thread a Runtime"):
            call()
    leave.set()
    thread.join()
    assert runtime.push(images[1], 0.25).state == "warming"


def test_streams_by_name_and_their_counts(runtime, images):
    assert runtime.stats()["counts"]["decisions"] == 0, "counts are there from the beginning"
    found = list(runtime.stream({"door": timed(images[:8]), "dock": timed(images[8:14])}))
    assert {p.stream for p in found} == {"door", "dock"} and sum(p.state == "ok" for p in found) == 5 + 3
    streams = runtime.stats()["streams"]
    assert streams["door"]["counts"]["encoded"] == 8 and streams["dock"]["counts"]["encoded"] == 6
    runtime.forget("dock")
    assert set(runtime.stats()["streams"]) == {"door"}
    with pytest.raises(SourceError, match="no source to stream from"):
        runtime.pipeline({})


def test_a_small_step_back_of_the_clock_is_no_gap(runtime, images):
    jitter = np.random.default_rng(0).uniform(-0.007, 0.007, 120)
    states = [runtime.push(images[i % 40], i / 60 + jitter[i]) for i in range(120)]
    decided = [p.state for p in states if p is not None]
    assert decided[:3] == ["warming"] * 3 and set(decided[3:]) == {"ok"} and runtime.stats()["counts"]["gaps"] == 0
