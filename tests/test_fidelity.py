import json

import numpy as np
import pytest
from onnx_toys import clip_toy, frame_toy, images

from vlf_edge.compiler import graph
from vlf_edge.compiler.accuracy.fidelity import Reference, compare
from vlf_edge.compiler.accuracy.runners import AS_WRITTEN, open_stages
from vlf_edge.compiler.quantization.float16 import to_float16
from vlf_edge.compiler.quantization.quantize import activations, quantize
from vlf_edge.compiler.quantization.ranges import collect_ranges
from vlf_edge.errors import ShapeError, WeightsError

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


def measured(reference, candidate, frames=FRAMES, windows=WINDOWS, labels=None):
    """Errors of ``candidate``'s graphs against ``reference``'s, all as they are written."""
    with open_stages(AS_WRITTEN, reference) as fp32, open_stages(AS_WRITTEN, candidate) as stages:
        return Reference.of(fp32, frames, windows, labels).errors(stages)


def test_errors_equal_the_slow_and_obvious_way(candidate):
    found = measured(REFERENCE, candidate)

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
    assert found["frame"] == pytest.approx(compare(np.stack(tokens), np.stack(rough_tokens)), rel=1e-3)
    assert found["clip"] == pytest.approx(compare(np.stack(logits), np.stack(clip_only), logits=True), rel=1e-3)
    assert found["end_to_end"] == pytest.approx(compare(np.stack(logits), np.stack(end_to_end), logits=True), rel=1e-3)
    assert 0 < found["clip"]["relative"] < found["end_to_end"]["relative"] < 0.1
    assert found == json.loads(json.dumps(found, allow_nan=False))


def test_errors_of_a_graph_against_itself_are_zero_and_repeatable(candidate):
    same = measured(REFERENCE, REFERENCE)
    assert same["end_to_end"]["max_abs"] == same["frame"]["max_abs"] == 0 and same["clip"]["top1_agreement"] == 1
    assert measured(REFERENCE, candidate) == measured(REFERENCE, candidate)


def test_float16_graphs_are_measured_too():
    typed = {stage: to_float16(data) for stage, data in REFERENCE.items()}
    assert 0 < measured(REFERENCE, typed)["end_to_end"]["relative"] < 5e-3


@pytest.mark.parametrize("way", ["openvino", "onnxruntime"])
def test_backends_are_measured_on_the_same_windows(candidate, way):
    pytest.importorskip(way)
    with open_stages(AS_WRITTEN, REFERENCE) as fp32, open_stages(way, REFERENCE) as engine:
        assert Reference.of(fp32, FRAMES, WINDOWS).errors(engine)["end_to_end"]["relative"] < 1e-5
    with open_stages(AS_WRITTEN, REFERENCE) as fp32, open_stages(way, candidate, "int8") as engine:
        assert 1e-4 < Reference.of(fp32, FRAMES, WINDOWS).errors(engine)["end_to_end"]["relative"] < 0.1


def test_backends_are_measured_as_a_stream_runs_them(monkeypatch):
    """In int8 a batch of eight may be answered otherwise than eight of one."""
    from vlf_edge.backends.onnxruntime import OnnxRuntimeEngine

    sizes, real = set(), OnnxRuntimeEngine.infer

    def infer(self, inputs):
        sizes.update(len(array) for array in inputs.values())
        return real(self, inputs)

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", infer)
    with open_stages("onnxruntime", REFERENCE) as stages:
        Reference.of(stages, FRAMES, WINDOWS)
    assert sizes == {1}


def test_answers_of_fp32_that_are_not_finite_are_no_reference():
    numbers = iter(range(len(WINDOWS)))

    def clip(batch):
        return np.array([[np.nan if next(numbers) % 8 == 1 else 0.0] * 5 for _ in batch])

    stages = {"clip": clip}
    with pytest.raises(WeightsError, match="NaN or infinity for 3 of 19 windows"):
        Reference.of(stages, FRAMES, WINDOWS)


def test_accuracy_counts_windows_of_known_class_only(candidate):
    with open_stages(AS_WRITTEN, REFERENCE) as stages:
        reference = Reference.of(stages, FRAMES, WINDOWS)
    assert reference.accuracy() is None and reference.labelled == 0
    assert "accuracy" not in measured(REFERENCE, candidate)["end_to_end"]
    decided = reference.logits.argmax(axis=1)
    labels = np.where(np.arange(len(WINDOWS)) % 2 == 0, decided, -1)
    labels[0] = (decided[0] + 1) % 5
    errors = measured(REFERENCE, REFERENCE, labels=labels)["end_to_end"]
    assert errors["accuracy"] == pytest.approx(9 / 10) and errors["top1_agreement"] == 1


def test_fewer_windows_keep_their_own_answers():
    labels = np.arange(len(WINDOWS)) % 5
    with open_stages(AS_WRITTEN, REFERENCE) as stages:
        reference = Reference.of(stages, FRAMES, WINDOWS, labels)
        few = reference.only(4)
        again = Reference.of(stages, few.frames, few.windows)
    assert len(few.windows) == 4 and len(few.frames) == 8 and reference.only(100) is reference
    np.testing.assert_allclose(few.logits, again.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(few.encoded.entries, again.encoded.entries, rtol=1e-4, atol=1e-5)
    assert [int(label) for label in few.labels] == [2, 2, 1, 1]


def test_a_single_stage():
    tokens = np.random.default_rng(0).standard_normal((4, 16, 8))
    # The toy clip graph reads float tokens; a one-stage model reads windows of images in their place.
    frames = (np.abs(tokens) * 50).astype(np.uint8)[..., None]
    one_stage = as_one_stage(clip_toy())
    found = measured({"clip": one_stage}, {"clip": one_stage}, frames, np.array([[0, 1], [2, 3]]))
    assert set(found) == {"end_to_end"} and found["end_to_end"]["relative"] == 0


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
        ({"stages": {"frame": None}}, "cannot measure stages frame; expected clip, or frame and clip"),
        ({"frames": FRAMES.astype(np.float32)}, "frames are float32"),
        ({"frames": FRAMES[0]}, r"frames are uint8 \(8, 8, 3\)"),
        ({"windows": WINDOWS.astype(float)}, "windows are float64"),
        ({"windows": WINDOWS[:0]}, r"windows are int64 \(0, 2\)"),
        ({"windows": WINDOWS + 1}, "windows name frames 1 to 20, but there are 20"),
        ({"labels": np.zeros(3, int)}, "got 3 labels for 19 windows"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"stages": {"frame": None, "clip": None}, "frames": FRAMES, "windows": WINDOWS, **change}
    with pytest.raises(ShapeError, match=message):
        Reference.of(**arguments)
