import json

import numpy as np
import pytest
from onnx_toys import clip_toy, frame_toy, images

from vlf_edge.compiler import graph
from vlf_edge.compiler.fidelity import compare, measure
from vlf_edge.compiler.quantize import activations, quantize, to_float16
from vlf_edge.compiler.ranges import collect_ranges
from vlf_edge.errors import ShapeError

REFERENCE = {"frame": frame_toy(), "clip": clip_toy()}
FRAMES = images(20)
WINDOWS = np.stack([np.arange(19), np.arange(1, 20)], axis=1)


@pytest.fixture(scope="module")
def candidate():
    calibrating = images(12, seed=9)
    tokens = graph.Session(frame_toy()).run({"image": calibrating})["tokens"].reshape(6, 2, 16, 8)
    feeds = {"frame": {"image": calibrating}, "clip": {"tokens": tokens}}
    return {
        stage: quantize(data, collect_ranges(data, activations(data), [feeds[stage]], "minmax")).onnx
        for stage, data in REFERENCE.items()
    }


def test_compare_of_known_arrays():
    a = np.array([[3, 4], [0, 2]], np.float32)
    b = np.array([[3, 4], [2, 0]], np.float32)
    assert compare(a, a, logits=True) == {
        "max_abs": 0, "relative": 0, "cosine_min": 1, "cosine_mean": 1, "top1_agreement": 1, "nonfinite": 0,
    }  # fmt: skip
    relative = round((8 / 29) ** 0.5, 6)
    expected = {"max_abs": 2, "relative": relative, "cosine_min": 0, "cosine_mean": 0.5, "nonfinite": 0}
    assert compare(a, b) == pytest.approx(expected)
    assert compare(a, b, logits=True)["top1_agreement"] == 0.5


def test_compare_takes_rows_from_the_last_axis():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 4, 5)).astype(np.float16)
    b = (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32)
    cosines = [
        float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        for x, y in zip(a.astype(np.float64).reshape(-1, 5), b.astype(np.float64).reshape(-1, 5))
    ]
    found = compare(a, b)
    assert found["cosine_min"] == float(f"{min(cosines):.6g}")
    assert found["cosine_mean"] == float(f"{np.mean(cosines):.6g}")


def test_compare_of_zeros():
    zero, one = np.zeros((2, 3)), np.ones((2, 3))
    assert compare(zero, zero)["relative"] == 0 and compare(zero, zero)["cosine_min"] == 1
    assert compare(zero, one)["relative"] is None and compare(zero, one)["cosine_min"] == 0
    assert compare(one, zero)["relative"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_compare_hides_no_overflow(bad):
    a = np.ones((2, 2), np.float32)
    b = a.copy()
    b[0, 1] = bad
    found = compare(a, b, logits=True)
    assert found.pop("nonfinite") == 0.25
    assert found == dict.fromkeys(["max_abs", "relative", "cosine_min", "cosine_mean", "top1_agreement"])
    json.dumps(compare(a, b), allow_nan=False)


def test_compare_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"shapes \(2, 3\) and \(3, 2\); expected equal"):
        compare(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ShapeError):
        compare(np.zeros((0, 3)), np.zeros((0, 3)))


def test_measure_equals_the_slow_and_obvious_way(candidate):
    found = measure(REFERENCE, candidate, FRAMES, WINDOWS, batch=3)

    def run(data, name, array):
        return next(iter(graph.Session(data).run({name: array}).values()))

    tokens, rough_tokens, logits, clip_only, end_to_end = [], [], [], [], []
    for image in FRAMES:
        tokens.append(run(REFERENCE["frame"], "image", image[None])[0])
        rough_tokens.append(run(candidate["frame"], "image", image[None])[0])
    for window in WINDOWS:
        clip = np.stack([tokens[i] for i in window])[None]
        logits.append(run(REFERENCE["clip"], "tokens", clip)[0])
        clip_only.append(run(candidate["clip"], "tokens", clip)[0])
        end_to_end.append(run(candidate["clip"], "tokens", np.stack([rough_tokens[i] for i in window])[None])[0])
    assert (found["frames"], found["windows"]) == (20, 19)
    assert found["frame"] == pytest.approx(compare(np.stack(tokens), np.stack(rough_tokens)), rel=1e-3)
    assert found["clip"] == pytest.approx(compare(np.stack(logits), np.stack(clip_only), logits=True), rel=1e-3)
    assert found["end_to_end"] == pytest.approx(compare(np.stack(logits), np.stack(end_to_end), logits=True), rel=1e-3)
    assert 0 < found["clip"]["relative"] < found["end_to_end"]["relative"] < 0.1
    assert found == json.loads(json.dumps(found, allow_nan=False))


def test_measure_of_a_graph_against_itself_is_zero_and_repeatable(candidate):
    same = measure(REFERENCE, REFERENCE, FRAMES, WINDOWS)
    assert same["end_to_end"]["max_abs"] == same["frame"]["max_abs"] == 0 and same["clip"]["top1_agreement"] == 1
    assert measure(REFERENCE, candidate, FRAMES, WINDOWS) == measure(REFERENCE, candidate, FRAMES, WINDOWS)


def test_measure_takes_float16_graphs_and_reports_progress():
    typed = {stage: to_float16(data) for stage, data in REFERENCE.items()}
    seen = []
    found = measure(REFERENCE, typed, FRAMES, WINDOWS, batch=8, progress=lambda done, total: seen.append((done, total)))
    assert 0 < found["end_to_end"]["relative"] < 5e-3
    assert seen == [(i, 15) for i in range(16)]


def test_measure_of_a_single_stage():
    tokens = np.random.default_rng(0).standard_normal((4, 16, 8))
    # The toy clip graph reads float tokens; a one-stage model reads windows of images in their place.
    frames = (np.abs(tokens) * 50).astype(np.uint8)[..., None]
    one_stage = as_one_stage(clip_toy())
    found = measure({"clip": one_stage}, {"clip": one_stage}, frames, np.array([[0, 1], [2, 3]]))
    assert set(found) == {"frames", "windows", "end_to_end"} and found["end_to_end"]["relative"] == 0


def as_one_stage(data):
    """The clip toy behind a Cast and a Squeeze: (N, 2, 16, 8, 1) uint8 -> logits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(data)
    before = [
        helper.make_node("Cast", ["clip"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["floats", "last"], ["tokens"], "squeeze"),
    ]
    graph.replace(model.graph.node, [*before, *model.graph.node])
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    graph.replace(model.graph.input, [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", 2, 16, 8, 1])])
    return model.SerializeToString()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"candidate": {"clip": b""}}, "stages clip, frame and clip; expected clip, or frame and clip"),
        ({"frames": FRAMES.astype(np.float32)}, "frames are float32"),
        ({"frames": FRAMES[0]}, r"frames are uint8 \(8, 8, 3\)"),
        ({"windows": WINDOWS.astype(float)}, "windows are float64"),
        ({"windows": WINDOWS[:0]}, r"windows are int64 \(0, 2\)"),
        ({"windows": WINDOWS + 1}, "windows name frames 1 to 20, but there are 20"),
    ],
)
def test_measure_names_mistakes(change, message):
    arguments = {"reference": REFERENCE, "candidate": REFERENCE, "frames": FRAMES, "windows": WINDOWS, **change}
    with pytest.raises(ShapeError, match=message):
        measure(**arguments)
