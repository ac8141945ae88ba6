from dataclasses import replace

import numpy as np
import pytest
from conftest import LABELS, toy_manifest

from vlf_edge import PlanMismatch, Sampling, ShapeError, VlfError
from vlf_edge.backends.fake import FakeEngine
from vlf_edge.manifest import Manifest
from vlf_edge.runtime.recognizer import Recognizer


def fake_engines(manifest: Manifest, **options) -> dict:
    graphs = {stage: manifest.graph(stage, "portable") for stage in manifest.stages}
    return {stage: FakeEngine(graph.inputs, graph.outputs, **options) for stage, graph in graphs.items()}


def recognizer(**sizes) -> Recognizer:
    manifest = toy_manifest(**sizes)
    return Recognizer(manifest, fake_engines(manifest))


def test_k_frames_pushed_one_by_one_equal_classify_of_those_frames(images):
    toy = recognizer()
    pushed = [toy.push(image, i * 0.25) for i, image in enumerate(images[:4])]
    assert [p.state for p in pushed] == ["warming", "warming", "warming", "ok"]
    whole = toy.classify(images[:4])
    np.testing.assert_array_equal(pushed[-1].logits, whole.logits)
    assert pushed[-1].label == whole.label and pushed[-1].topk == whole.topk


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_every_decision_of_a_stream_equals_its_window(images, phases):
    toy = recognizer(phases=phases)
    decisions = 0
    for i, image in enumerate(images):
        prediction = toy.push(image, i * 0.25 / phases)
        window = images[i::-phases][:4][::-1]
        assert (prediction.state == "ok") == (len(window) == 4)
        if prediction.state == "ok":
            np.testing.assert_array_equal(prediction.logits, toy.classify(window).logits)
            decisions += 1
    assert decisions == len(images) - 3 * phases


def test_one_decision_costs_one_frame_encode_and_one_clip_run(images):
    manifest = toy_manifest()
    engines = fake_engines(manifest)
    toy = Recognizer(manifest, engines)
    for i, image in enumerate(images[:10]):
        toy.push(image, i * 0.25)
    assert engines["frame"].frames == engines["frame"].calls == 10, "each frame once, never again"
    assert engines["clip"].calls == 7
    assert +toy.total().counts == {"captured": 10, "encoded": 10, "decisions": 7}


def test_frames_off_the_grid_cost_nothing(images):
    manifest = toy_manifest()
    engines = fake_engines(manifest)
    toy = Recognizer(manifest, engines)
    predictions = [toy.push(image, i / 40) for i, image in enumerate(images)]
    assert engines["frame"].calls == 4 and sum(p is not None for p in predictions) == 4
    assert +toy.total().counts == {"captured": 40, "encoded": 4, "off_grid": 36, "decisions": 1}
    assert toy.stats.summary()["ms"]["preprocess"]["n"] == 4, "refused frames are never resized"


def test_a_gap_restarts_the_window_and_says_so(images):
    toy = recognizer()
    times_s = [0, 0.25, 0.5, 0.75, 2.0, 2.25, 2.5, 2.75]
    predictions = [toy.push(image, t) for image, t in zip(images, times_s)]
    assert [p.state for p in predictions] == ["warming"] * 3 + ["ok", "gap", "warming", "warming", "ok"]
    assert all(p.label is None and p.scores is None and p.topk == () for p in predictions if p.state != "ok")
    np.testing.assert_array_equal(predictions[-1].logits, toy.classify(images[4:8]).logits)
    assert (predictions[-1].t_start_s, predictions[-1].t_end_s) == (2.0, 2.75)
    assert toy.total().counts["gaps"] == 1


def test_a_camera_too_slow_for_the_plan_is_named_once(images, caplog):
    toy = recognizer()
    states = {toy.push(image, i * 0.5).state for i, image in enumerate(images[1:12])}
    assert states == {"warming", "gap"}
    assert [r.message for r in caplog.records] == [
        "main: 3 gaps without a full window between them: frames come too seldom for this plan, which needs one at least "
        "every 0.125 s; use a faster camera, a faster machine or a plan with a longer span"
    ]


def test_prediction_fields(images):
    toy = recognizer(weights={"origin": "random", "seed": 0})
    for i, image in enumerate(images[:4]):
        prediction = toy.push(image, 10 + i * 0.25, seq=100 + i)
    assert prediction.scores.shape == (len(LABELS),) and prediction.scores.dtype == np.float32
    assert prediction.scores.sum() == pytest.approx(1, abs=1e-6)
    assert prediction.label == LABELS[int(prediction.logits.argmax())]
    assert prediction.score == pytest.approx(float(prediction.scores.max()))
    assert [score for _, score in prediction.topk] == sorted((s for _, s in prediction.topk), reverse=True)
    assert (prediction.seq, prediction.dropped, prediction.random_weights) == (103, 0, True)
    assert (prediction.t_start_s, prediction.t_end_s) == (10.0, 10.75) and 0 <= prediction.age_ms < 10_000


def test_clock_is_used_when_no_time_is_given(images):
    toy = recognizer()
    assert toy.push(images[0]).state == "warming"
    assert toy.push(images[1]) is None, "not a quarter of a second later"


def test_reset_begins_anew(images):
    toy = recognizer()
    for i in range(4):
        last = toy.push(images[i], i * 0.25)
    toy.reset()
    assert last.state == "ok" and toy.push(images[4], 1.0).state == "warming"


def test_classify_takes_segment_centres_and_leaves_the_stream_alone(images):
    toy = recognizer()
    for i in range(3):
        toy.push(images[i], i * 0.25)
    whole = toy.classify(images)
    np.testing.assert_array_equal(whole.logits, toy.classify(images[[5, 15, 25, 35]]).logits)
    assert (whole.t_start_s, whole.t_end_s, whole.seq) == (5.0, 35.0, 35)
    assert toy.push(images[3], 0.75).state == "ok"
    np.testing.assert_array_equal(toy.classify(images[:2]).logits, toy.classify(images[[0, 0, 1, 1]]).logits)


def test_batches_follow_the_engine(images):
    manifest = toy_manifest()
    for max_batch, calls in ((None, 1), (3, 2), (1, 4)):
        engines = fake_engines(manifest, max_batch=max_batch)
        Recognizer(manifest, engines).classify(images[:4])
        assert engines["frame"].calls == calls


def test_refusals(images):
    toy = recognizer()
    with pytest.raises(ShapeError, match="classify got no frames"):
        toy.classify([])
    with pytest.raises(ShapeError, match="4 images but 3 times"):
        toy.classify(images[:4], [0, 1, 2])
    with pytest.raises(ShapeError, match="BGR order, got"):
        toy.push(images[0][..., 0], 0.0)
    with pytest.raises(ShapeError, match="time is nan"):
        toy.push(images[0], float("nan"))
    with pytest.raises(VlfError, match="topk is 0"):
        Recognizer(toy_manifest(), fake_engines(toy_manifest()), topk=0)
    with pytest.raises(PlanMismatch, match="names 2 labels, but its model has 5 classes"):
        manifest = toy_manifest()
        Recognizer(replace(manifest, labels=("a", "b")), fake_engines(manifest))
    with pytest.raises(PlanMismatch, match="has no engine for its stage 'clip'"):
        manifest = toy_manifest()
        Recognizer(type(manifest)(**{**manifest.__dict__, "stages": ("clip",)}), {})


@pytest.mark.parametrize("failure", ["frame", "engine"])
def test_after_a_failure_the_next_frame_begins_a_new_window(images, failure):
    manifest = toy_manifest()
    engines = fake_engines(manifest)
    toy = Recognizer(manifest, engines)
    for i in range(3):
        toy.push(images[i], i * 0.25)
    if failure == "engine":
        engines["frame"].fail_on_call = 4
    with pytest.raises((ShapeError, VlfError)):
        toy.push(images[3] if failure == "engine" else images[3].astype(float), 0.75)
    states = [toy.push(images[i], i * 0.25).state for i in range(3, 8)]
    # A frame that never was an image costs nothing; one that was lost inside costs the window.
    assert states == (["warming"] * 3 + ["ok"] * 2 if failure == "engine" else ["ok"] * 5)


def test_other_sampling_than_the_plans(images):
    manifest = toy_manifest()
    toy = Recognizer(manifest, fake_engines(manifest), sampling=Sampling(4, 2.0))
    assert [toy.push(image, i * 0.5).state for i, image in enumerate(images[:4])][-1] == "ok"
