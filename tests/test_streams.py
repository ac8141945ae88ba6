"""Many streams in one executor: every decision is the one that a Runtime of its own would have made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import LABELS, toy_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recognizer import fake_engines

from vlf_edge import ModelError, Runtime, Sampling, ShapeError, VlfError
from vlf_edge.runtime.recognizer import Recognizer

BACKENDS = ("openvino", "onnxruntime")


def interleaved(seed: int, streams: int, seconds: float, rng_images: np.ndarray) -> list[tuple[str, np.ndarray, float]]:
    """Frames of cameras with rates, starts, losses and ends of their own, in the order in which they come."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(streams):
        fps, start_s = rng.uniform(5, 60), rng.uniform(0, 100)
        lasts_s = rng.uniform(0.4, 1.0) * seconds
        times_s = np.arange(int(lasts_s * fps)) / fps + rng.uniform(-0.2, 0.2, int(lasts_s * fps)) / fps
        lost = rng.random(len(times_s)) < rng.choice([0.0, 0.1, 0.4])
        arrives_s = rng.uniform(0, 1) + times_s
        for arrival_s, t_s in zip(arrives_s[~lost], times_s[~lost]):
            frames.append((arrival_s, f"camera {number}", rng_images[rng.integers(len(rng_images))], start_s + t_s))
    frames.sort(key=lambda frame: frame[0])
    return [frame[1:] for frame in frames]


def same(got, want, tolerance: float) -> None:
    assert (got is None) == (want is None)
    if got is None:
        return
    assert (got.state, got.t_start_s, got.t_end_s, got.stream) == (
        want.state,
        want.t_start_s,
        want.t_end_s,
        want.stream,
    )
    if want.state == "ok":
        error = np.linalg.norm(got.logits - want.logits) / np.linalg.norm(want.logits)
        assert error <= tolerance


def compare(shared, alone, frames, tolerance: float, rng) -> int:
    """Pushes frames in chunks of random length into ``shared``, one by one into the stream's own ``alone``."""
    decisions, start = 0, 0
    while start < len(frames):
        chunk = frames[start : start + int(rng.integers(1, 40))]
        start += len(chunk)
        for (name, image, t_s), got in zip(chunk, shared.push_many(chunk)):
            same(got, alone(name).push(image, t_s, stream=name), tolerance)
            decisions += got is not None and got.state == "ok"
    return decisions


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), streams=st.integers(1, 32), phases=st.sampled_from([1, 2, 3]))
def test_streams_do_not_know_of_each_other(seed, streams, phases):
    manifest, rng = toy_manifest(phases=phases), np.random.default_rng(seed)
    images = rng.integers(0, 255, (16, 32, 32, 3), np.uint8)
    shared, own = Recognizer(manifest, fake_engines(manifest)), {}

    def alone(name):
        return own.setdefault(name, Recognizer(manifest, fake_engines(manifest)))

    compare(shared, alone, interleaved(seed, streams, 3.0, images), 0.0, rng)


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_of_a_real_plan_equal_runtimes_of_their_own(plans, backend):
    pytest.importorskip(backend)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 255, (24, 64, 64, 3), np.uint8)
    frames = interleaved(5, 32, 3.2, images)
    with Runtime(plans["fp32"], backend=backend) as shared, Runtime(plans["fp32"], backend=backend) as single:
        # One Runtime stands for 32: a stream of its own for each, one frame at a time.
        assert compare(shared, lambda name: single, frames, 1e-5, rng) > 40
        assert len(shared.stats()["streams"]) == 32
        total, streams = shared.stats()["counts"], shared.stats()["streams"].values()
        assert total["captured"] == len(frames) == sum(stream["counts"]["captured"] for stream in streams)


def test_a_stream_may_come_twice_in_one_call(images):
    manifest = toy_manifest()
    shared, alone = (Recognizer(manifest, fake_engines(manifest)) for _ in range(2))
    many = shared.push_many([("a", image, i * 0.25) for i, image in enumerate(images[:10])])
    for i, got in enumerate(many):
        same(got, alone.push(images[i], i * 0.25, stream="a"), 0.0)
    assert many[-1].state == "ok"


def test_frames_due_at_the_same_time_share_one_run(images):
    manifest = toy_manifest()
    engines = fake_engines(manifest)
    shared = Recognizer(manifest, engines)
    for i in range(4):
        predictions = shared.push_many([(f"camera {n}", images[i], i * 0.25) for n in range(8)])
    assert {prediction.state for prediction in predictions} == {"ok"}
    assert engines["frame"].calls == 4 and engines["clip"].calls == 1
    assert [prediction.stream for prediction in predictions] == [f"camera {n}" for n in range(8)]


def test_more_streams_than_the_engine_takes_at_once(images):
    manifest = toy_manifest()
    shared = Recognizer(manifest, fake_engines(manifest, max_batch=3))
    for i in range(4):
        predictions = shared.push_many([(f"camera {n}", images[i + n], i * 0.25) for n in range(36)])
    alone = Recognizer(manifest, fake_engines(manifest))
    for n, got in enumerate(predictions):
        np.testing.assert_array_equal(got.logits, alone.classify(images[n : n + 4]).logits)


def test_a_bad_frame_among_many_costs_nothing(images):
    manifest = toy_manifest()
    shared = Recognizer(manifest, fake_engines(manifest))
    for i in range(3):
        shared.push_many([("a", images[i], i * 0.25), ("b", images[i], i * 0.25)])
    with pytest.raises(ShapeError, match="got"):
        shared.push_many([("a", images[3], 0.75), ("b", images[3].astype(float), 0.75)])
    states = [p.state for p in shared.push_many([("a", images[3], 0.75), ("b", images[3], 0.75)])]
    assert states == ["ok", "ok"]


def test_streams_are_forgotten_when_told_and_when_idle(images, monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr("vlf_edge.runtime.recognizer.time.monotonic", lambda: now_s[0])
    manifest = toy_manifest()
    shared = Recognizer(manifest, fake_engines(manifest), max_streams=3, idle_s=5.0)
    for name in "abc":
        shared.push(images[0], 0.0, stream=name)
    with pytest.raises(VlfError, match="there are 3 streams already and all are in use"):
        shared.push(images[0], 0.0, stream="d")
    shared.forget("b")
    assert shared.push(images[0], 0.0, stream="d").state == "warming"
    now_s[0] += 6
    shared.push(images[1], 0.25, stream="a")
    assert shared.push(images[0], 0.0, stream="e").state == "warming"
    assert sorted(shared.streams) == ["a", "e"], "a was used, the others were idle"


class Broken:
    """An engine that answers with something that is no number, in one stream's frames or in all of them."""

    def __init__(self, engine, value: float, *, only_bright: bool = False):
        self._engine, self._value, self._only_bright = engine, value, only_bright

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer_all(self, inputs, batch=None):
        results = self._engine.infer_all(inputs, batch)
        (name,) = results
        for number, item in enumerate(next(iter(inputs.values()))):
            if not self._only_bright or item.min() == 255:
                results[name][number] = self._value
        return results


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_no_number_is_never_a_decision(images, value):
    manifest = toy_manifest()
    engines = fake_engines(manifest)
    engines["clip"] = Broken(engines["clip"], value)
    toy = Recognizer(manifest, engines)
    states = [toy.push(images[i], i * 0.25).state for i in range(12)]
    assert states == (["warming"] * 3 + ["failed"]) * 3
    assert toy.total().counts["not_numbers"] == 3 and toy.total().counts["decisions"] == 0
    with pytest.raises(ModelError, match="answer was not a number 3 times .* on fake"):
        toy.push(images[12], 3.0)
    with pytest.raises(ModelError, match="answer to this clip is not a number"):
        toy.classify(images)
    toy.reset()
    assert toy.push(images[0], 9.0).state == "warming"


def test_one_stream_that_fails_leaves_the_others_alone(images):
    manifest = toy_manifest()
    engines = fake_engines(manifest)
    engines["frame"] = Broken(engines["frame"], math.nan, only_bright=True)
    shared, alone = Recognizer(manifest, engines), Recognizer(manifest, fake_engines(manifest))
    white = np.full_like(images[0], 255)
    for i in range(12):
        bad, good = shared.push_many([("bad", white, i * 0.25), ("good", images[i], i * 0.25)])
        same(good, alone.push(images[i], i * 0.25, stream="good"), 0.0)
        assert bad.state != "ok" and bad.label is None
    assert shared.streams["good"].stats.counts["decisions"] == 9


def test_other_stages_than_known_are_refused(images):
    from dataclasses import replace

    from vlf_edge import PlanMismatch

    manifest = replace(toy_manifest(), roles={"frame": {"image": "image", "tokens": "logits"}})
    with pytest.raises(PlanMismatch, match="runs no plan of these stages .frame: image -> logits; clip: window"):
        Recognizer(manifest, fake_engines(manifest))


def test_a_sampling_that_is_given_holds():
    manifest = toy_manifest(frames=4)
    assert len(LABELS) == 5
    assert Recognizer(manifest, fake_engines(manifest), sampling=Sampling(4, 2.0)).sampling.span_s == 2.0
