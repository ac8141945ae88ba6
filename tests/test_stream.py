"""The promise of the project: a stream that encodes each frame once gives what the whole clip gives."""

import numpy as np
import pytest

from vlf_edge import Runtime
from vlf_edge.video.motion_pattern import MotionOptions, MotionPattern
from vlf_edge.video.sampler import TOLERANCE_S

BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(scope="module", params=BACKENDS)
def runtime(request, plans):
    pytest.importorskip(request.param)
    with Runtime(plans["fp32"], backend=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def pattern():
    return MotionPattern(MotionOptions(width=160, height=120))


def relative_error(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def windows(times_s, sampling):
    """Slow and obvious: the times of the frames that each decision must have seen."""
    instants, origin_s, index = [], times_s[0], 0
    while True:
        due_s = origin_s + len(instants) * sampling.grid_s - TOLERANCE_S
        index = next((i for i in range(index, len(times_s)) if times_s[i] >= due_s), None)
        if index is None:
            break
        instants.append(times_s[index])
    span = (sampling.frames - 1) * sampling.phases
    return [instants[n - span : n + 1 : sampling.phases] for n in range(span, len(instants))]


@pytest.mark.parametrize("fps", [15, 25, 29.97, 60])
@pytest.mark.parametrize("lost", [0.0, 0.15])
def test_stream_equals_clip(runtime, pattern, fps, lost):
    rng = np.random.default_rng(int(fps * 100))
    times_s = float(rng.uniform(0, 50)) + np.arange(int(4.5 * fps)) / fps
    times_s = [t for i, t in enumerate(times_s) if i == 0 or rng.random() >= lost]
    frames = {t: pattern.render(t) for t in times_s}
    predictions = [p for p in runtime.stream((frames[t], t) for t in times_s) if p.state == "ok"]
    expected = windows(times_s, runtime.recognizer.sampling)
    assert len(predictions) == len(expected) >= 9
    assert relative_error(predictions[0].logits, predictions[-1].logits) > 1e-3, "the windows are told apart"
    for prediction, window in zip(predictions, expected):
        assert (prediction.t_start_s, prediction.t_end_s) == (window[0], window[-1])
        whole = runtime.classify([frames[t] for t in window])
        assert relative_error(prediction.logits, whole.logits) < 1e-5


def test_stream_equals_clip_on_a_jittering_clock_with_phases(plans, pattern):
    rng = np.random.default_rng(7)
    times_s = np.cumsum(rng.uniform(0.02, 0.06, 120)).tolist()
    frames = {t: pattern.render(t) for t in times_s}
    with Runtime(plans["fp32"], phases=3) as runtime:
        predictions = [p for p in runtime.stream((frames[t], t) for t in times_s) if p.state == "ok"]
        expected = windows(times_s, runtime.recognizer.sampling)
        assert len(predictions) == len(expected) > 20
        for prediction, window in zip(predictions[::4], expected[::4]):
            whole = runtime.classify([frames[t] for t in window])
            assert relative_error(prediction.logits, whole.logits) < 1e-5


def test_push_equals_classify(runtime, pattern):
    images = [pattern.render(i * 0.25) for i in range(8)]
    runtime.reset()
    pushed = [runtime.push(image, i * 0.25) for i, image in enumerate(images)][-1]
    assert pushed.state == "ok"
    assert relative_error(pushed.logits, runtime.classify(images).logits) < 1e-5


def test_backends_agree(plans, pattern):
    images = [pattern.render(i * 0.25) for i in range(8)]
    logits = []
    for backend in BACKENDS:
        with Runtime(plans["fp32"], backend=backend) as runtime:
            logits.append(runtime.classify(images).logits)
    assert relative_error(*logits) < 1e-4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_reduced_precision_streams_too(plans, pattern, precision, backend):
    images = [pattern.render(i * 0.25) for i in range(8)]
    with Runtime(plans["fp32"], backend=backend) as exact:
        reference = exact.classify(images).logits
    with Runtime(plans[precision], backend=backend) as runtime:
        pushed = [runtime.push(image, i * 0.25) for i, image in enumerate(images)][-1]
        # bfloat16, which OpenVINO takes for what is not int8, has 8 bits; batches of 8 and of 1 may round apart.
        assert relative_error(pushed.logits, runtime.classify(images).logits) < 0.05
        assert relative_error(pushed.logits, reference) < 0.15


def test_classify_a_file_equals_classify_of_its_frames(runtime, videos):
    from vlf_edge import open_source
    from vlf_edge.video.sampler import segment_centres

    frames = list(open_source(videos[0]))
    chosen = [frames[i] for i in segment_centres(len(frames), 8)]
    whole = runtime.classify(videos[0])
    np.testing.assert_array_equal(whole.logits, runtime.classify([frame.image for frame in chosen]).logits)
    assert (whole.t_start_s, whole.t_end_s) == (chosen[0].t_s, chosen[-1].t_s)


def test_videos_end_to_end(plans, videos):
    with Runtime(plans["int8"]) as runtime:
        for clip in videos:
            predictions = list(runtime.stream(clip))
            decided = [p for p in predictions if p.state == "ok"]
            assert [p.state for p in predictions[:7]] == ["warming"] * 7
            assert len(decided) == len(predictions) - 7 >= 15
            assert all(np.isfinite(p.logits).all() and p.random_weights for p in decided)
        counts = runtime.stats()["counts"]
        assert counts["captured"] == counts["encoded"] + counts["off_grid"] and counts.get("dropped", 0) == 0
