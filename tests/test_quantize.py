import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_toys import FLOAT, TOYS, clip_toy, frame_toy, images, model_bytes, quantized, ranges_of, relative, run

from vlf_edge.backends.openvino import OpenVINOEngine
from vlf_edge.compiler import graph
from vlf_edge.compiler.quantization.float16 import to_float16
from vlf_edge.compiler.quantization.quantize import activations, float16_scales, quantizable_nodes, quantize
from vlf_edge.compiler.quantization.ranges import Ranges
from vlf_edge.errors import CalibrationError, CompileError, ShapeError, WeightsError
from vlf_edge.types import TensorSpec


def fixed_ranges(**thresholds):
    return Ranges("minmax", thresholds, thresholds, dict.fromkeys(thresholds, 0.0), 1)


def layer(op_type, weight, x_shape, **attributes):
    """One weighted operator: x -> y."""
    nodes = [helper.make_node(op_type, ["x", "w"], ["y"], "node", **attributes)]
    rank = [None] * len(x_shape)
    return model_bytes(nodes, {"x": (FLOAT, rank)}, {"y": (FLOAT, rank)}, {"w": weight})


def test_layers_and_axes_are_found():
    nodes = quantizable_nodes(frame_toy())
    found = {item.node: (item.op_type, item.activation, item.weight, item.axis) for item in nodes}
    assert found == {
        "stem": ("Conv", "x", "stem.w", 0),
        "dw": ("Conv", "act", "dw.w", 0),
        "grouped": ("Conv", "act", "grouped.w", 0),
    }
    nodes = quantizable_nodes(clip_toy())
    found = {item.node: (item.op_type, item.activation, item.weight, item.axis) for item in nodes}
    assert found == {
        "q": ("MatMul", "normed", "q.w", 1),
        "k": ("MatMul", "normed", "k.w", 1),
        "v": ("MatMul", "normed", "v.w", 1),
        "fc": ("Gemm", "pooled", "fc.w", 0),
        "head": ("Gemm", "act", "head.w", 1),
    }
    assert activations(clip_toy()) == ("normed", "pooled", "act")


@pytest.mark.parametrize(
    "name, expected, kept",
    [
        ("frame", {"stem": "x", "dw": "act", "grouped": "act"}, {}),
        (
            "clip",
            {"q": "normed", "k": "normed", "v": "normed", "fc": "pooled", "head": "act"},
            {"scores": "it multiplies two activations", "values": "it multiplies two activations"},
        ),
    ],
)
def test_nodes_stand_exactly_where_they_should(name, expected, kept):
    result = quantized(name)
    assert result.quantized == tuple(expected) and result.kept_float == kept
    model, before = onnx.load_from_string(result.onnx), onnx.load_from_string(TOYS[name][0])
    made = {output: node for node in model.graph.node for output in node.output}
    constants = graph.initializers(model)
    for node in model.graph.node:
        if node.name in expected:
            activation, weight = (made[node.input[i]] for i in (0, 1))
            assert activation.op_type == weight.op_type == "DequantizeLinear"
            source = made[activation.input[0]]
            assert source.op_type == "QuantizeLinear" and source.input[0] == expected[node.name]
            assert list(source.input[1:]) == list(activation.input[1:])
            assert constants[weight.input[0]].data_type == TensorProto.INT8
        elif node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            original = next(n for n in before.graph.node if n.name == node.name)
            assert node == original, "all other nodes read what they read before"
    pairs = len(set(expected.values()))
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("QuantizeLinear") == pairs
    assert ops.count("DequantizeLinear") == pairs + len(expected)
    assert len(ops) == len(before.graph.node) + 2 * pairs + len(expected)


@pytest.mark.parametrize("name", TOYS)
def test_only_symmetric_int8_and_float_biases(name):
    model = onnx.load_from_string(quantized(name).onnx)
    constants = {k: numpy_helper.to_array(v) for k, v in graph.initializers(model).items()}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero_point = (constants[i] for i in node.input[1:])
            assert zero_point.dtype == np.int8 and not zero_point.any() and zero_point.shape == scale.shape
            assert scale.dtype == np.float32 and (scale > 0).all()
            assert node.input[0] not in constants or constants[node.input[0]].dtype == np.int8
            if node.input[0] in constants:
                assert np.abs(constants[node.input[0]].astype(int)).max() == 127
        elif node.op_type in ("Conv", "Gemm"):
            assert all(constants[i].dtype == np.float32 for i in node.input[2:])
    assert not any(c.dtype in (np.uint8, np.int32) for c in constants.values())
    assert not set(constants) & {item.weight for item in quantizable_nodes(TOYS[name][0])}, "float weights are gone"


WEIGHTS = {
    "plain": ("Conv", (6, 4, 3, 3), (2, 4, 5, 5), {}, 0),
    "depthwise": ("Conv", (4, 1, 3, 3), (2, 4, 5, 5), {"group": 4}, 0),
    "grouped": ("Conv", (6, 2, 1, 1), (2, 4, 5, 5), {"group": 2}, 0),
    "gemm": ("Gemm", (4, 6), (3, 4), {}, 1),
    "gemm transB": ("Gemm", (6, 4), (3, 4), {"transB": 1}, 0),
    "matmul 2-D": ("MatMul", (4, 6), (3, 4), {}, 1),
    "matmul 3-D": ("MatMul", (4, 6), (2, 3, 4), {}, 1),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_one_layer_equals_fake_quantisation_in_numpy(kind):
    op_type, shape, x_shape, attributes, axis = WEIGHTS[kind]
    rng = np.random.default_rng(0)
    size = np.geomspace(1e-3, 10, shape[axis]).astype(np.float32)
    size = np.expand_dims(size, [a for a in range(len(shape)) if a != axis])
    weight = rng.standard_normal(shape).astype(np.float32) * size
    x = rng.standard_normal(x_shape).astype(np.float32)
    data = layer(op_type, weight, x_shape, **attributes)
    result = quantize(data, fixed_ranges(x=1.5))
    assert result.quantized == ("node",)

    model = onnx.load_from_string(result.onnx)
    scale = next(numpy_helper.to_array(t) for n, t in graph.initializers(model).items() if n == f"w/axis{axis}/scale")
    assert scale.shape == (shape[axis],)
    fake_weight = np.empty_like(weight)
    for channel in range(shape[axis]):
        index = tuple(channel if a == axis else slice(None) for a in range(len(shape)))
        limit = np.abs(weight[index]).max()
        assert limit / 127 <= scale[channel] <= limit / 127 * (1 + 2**-9) + 2**-24
        fake_weight[index] = np.rint(weight[index] / scale[channel]).clip(-127, 127) * scale[channel]
    step = float16_scales(np.array(1.5))
    fake_x = np.rint(x / step).clip(-128, 127) * step
    expected = run(layer(op_type, fake_weight, x_shape, **attributes), {"x": fake_x.astype(np.float32)})
    np.testing.assert_allclose(run(result.onnx, {"x": x}), expected, rtol=1e-6, atol=1e-6)
    # One scale for all channels would drown the small ones; per channel, each is as good as the others.
    plain = run(layer(op_type, weight, x_shape, **attributes), {"x": fake_x.astype(np.float32)})
    out = 1 if op_type == "Conv" else plain.ndim - 1
    errors = [relative(plain.take(c, out), expected.take(c, out)) for c in range(plain.shape[out])]
    assert max(errors) < 0.02


def test_scales_are_float16_numbers_that_never_clip():
    limits = np.concatenate([np.geomspace(1e-9, 8e6, 500), [0.0]])
    scales = float16_scales(limits)
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert (scales[:-1] * 127.0 >= limits[:-1]).all() and scales[-1] == 1
    usual = (limits > 0.01) & (limits < 8e6)
    assert (scales[usual] <= limits[usual] / 127 * (1 + 2**-10)).all()


def test_dead_and_tiny_channels_stay_what_they_are():
    weight = np.array([[0, 0], [1e-12, -1e-12], [1e-6, 5e-7], [1, -2]], np.float32)
    x = np.array([[1.0, -0.5]], np.float32)
    data = layer("Gemm", weight, x.shape, transB=1)
    for graph_bytes in (quantize(data, fixed_ranges(x=1.0)).onnx, to_float16(quantize(data, fixed_ranges(x=1.0)).onnx)):
        y = run(graph_bytes, {"x": x})[0]
        assert y[0] == 0 and abs(y[1]) < 1e-6
        assert y[2] == pytest.approx(7.5e-7, rel=0.2) and y[3] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("level", ["DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_a_channel_of_next_to_no_weight_keeps_its_bias(kind, level):
    """Integer kernels hold biases in int32, in units of both scales: such a channel's unit must not be too small."""
    weight, bias = np.repeat([[1e-9, 0.1]], 36, axis=0).astype(np.float32), np.array([3.14, -2.0], np.float32)
    # The second layer makes the first one's output int8: integer kernels are used only then.
    make, second = helper.make_node, np.eye(2, dtype=np.float32)
    nodes = [make(kind, ["x", "w", "b"], ["y"]), make(kind, ["y", "v"], ["z"])]
    if kind == "Conv":
        weight, second = weight.T[:, :, None, None], second[:, :, None, None]
    elif kind == "MatMul":
        nodes[0] = make(kind, ["x", "w"], ["product"])
        nodes.insert(1, make("Add", ["b", "product"], ["y"]))
    x = np.ones((1, 36, 1, 1) if kind == "Conv" else (1, 36), np.float32)
    values = (FLOAT, ["N", *[None] * (x.ndim - 1)])
    data = model_bytes(nodes, {"x": values}, {"z": values}, {"w": weight, "b": bias, "v": second})
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    # Integer kernels that are exact on CPUs without VNNI too: see backends/cpu.py.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(quantize(data, fixed_ranges(x=1.0, y=4.0)).onnx, options)
    np.testing.assert_allclose(session.run(None, {"x": x})[0].ravel(), [3.14, 1.6], atol=0.03)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 3)])
def test_every_shape_of_a_bias_is_kept_within_int32(shape):
    weight = np.array([[1e-9, 0.5, 1.0], [1e-9, -0.5, 1.0]], np.float32)
    nodes, bias = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])], np.full(shape, 5.0, np.float32)
    data = model_bytes(nodes, {"x": (FLOAT, [2, 2])}, {"y": (FLOAT, [2, 3])}, {"w": weight, "b": bias})
    found = graph.initializers(onnx.load_from_string(quantize(data, fixed_ranges(x=1.0)).onnx))
    unit = numpy_helper.to_array(found["w/axis1/scale"]) * numpy_helper.to_array(found["x/scale"])
    assert (5.0 / unit < 2**31).all() and unit[1] == unit[2] / 2, "only the channel that needs it gets a coarser grid"


@pytest.mark.parametrize("name", TOYS)
def test_int8_and_fp16_graphs_stay_close_on_onnx_runtime(name):
    data, feed = TOYS[name]
    expected = run(data, feed)
    result = quantized(name)
    assert 1e-5 < relative(expected, run(result.onnx, feed)) < 0.03
    assert relative(expected, run(to_float16(data), feed)) < 2e-3
    assert relative(run(result.onnx, feed), run(to_float16(result.onnx), feed)) < 0.02


@pytest.mark.parametrize("name", TOYS)
def test_openvino_gives_the_same_answer(name):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    feed = TOYS[name][1]
    result = quantized(name)
    for data, bound in ((result.onnx, 0.02), (TOYS[name][0], 1e-5)):
        with OpenVINOEngine(data) as engine:
            for count in (6, 1):
                part = {key: value[:count] for key, value in feed.items()}
                (answer,) = engine.infer(part).values()
                assert relative(run(data, part), answer) < bound


def test_keep_float_leaves_nodes_untouched():
    result = quantized("clip", keep_float=["q", "k", "v", "head"])
    assert result.quantized == ("fc",)
    assert result.kept_float["head"] == "asked to stay float" and len(result.kept_float) == 6
    ops = [node.op_type for node in onnx.load_from_string(result.onnx).graph.node]
    assert ops.count("QuantizeLinear") == 1 and ops.count("DequantizeLinear") == 2
    nothing = quantized("frame", keep_float=["stem", "dw", "grouped"])
    assert nothing.quantized == ()
    np.testing.assert_array_equal(run(nothing.onnx, TOYS["frame"][1]), run(*TOYS["frame"]))
    with pytest.raises(CompileError, match="keep_float names 'scores', which is not.*available: q, k, v, fc, head"):
        quantized("clip", keep_float=["scores"])


def test_a_layer_that_saw_only_zeros_stays_float():
    thresholds = {**ranges_of("frame").thresholds, "act": 0.0}
    result = quantize(frame_toy(), fixed_ranges(**thresholds))
    assert result.quantized == ("stem",)
    assert result.kept_float["dw"] == "its input act was zero throughout calibration"


def test_other_operands_stay_float_with_a_reason():
    cube = np.ones((2, 4, 4), np.float32)
    square = np.ones((4, 4), np.float32)
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "cube"], ["a"], "cube"),
        node("MatMul", ["square", "a"], ["b"], "left"),
        node("MatMul", ["square", "square"], ["c"], "both"),
        node("Add", ["b", "c"], ["y"], "add"),
    ]
    data = model_bytes(nodes, {"x": (FLOAT, [2, 4, 4])}, {"y": (FLOAT, [2, 4, 4])}, {"cube": cube, "square": square})
    result = quantize(data, fixed_ranges())
    assert result.quantized == () and result.kept_float == {
        "cube": "its weight has 3 axes, not 2",
        "left": "its constant operand comes first",
        "both": "its input is a constant",
    }


def test_weights_behind_transpose_reshape_and_constant_nodes_are_found():
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((6, 4)).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Constant", [], ["shape"], "c", value_ints=[4, 6]),
        node("Transpose", ["raw"], ["turned"], "t", perm=[1, 0]),
        node("Identity", ["turned"], ["same"], "i"),
        node("Reshape", ["same", "shape"], ["w"], "r"),
        node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    floats = (FLOAT, ["N", None])
    data = model_bytes(nodes, {"x": floats}, {"y": floats}, {"raw": raw})
    x = rng.standard_normal((3, 4)).astype(np.float32)
    result = quantize(data, fixed_ranges(x=3.0))
    assert result.quantized == ("fc",)
    assert [n.op_type for n in onnx.load_from_string(result.onnx).graph.node] == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul",
    ]  # fmt: skip
    assert relative(x @ raw.T, run(result.onnx, {"x": x})) < 0.02


def test_a_weight_shared_by_two_layers_is_stored_once():
    w = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "w"], ["b"], "second"),
        helper.make_node("Gemm", ["b", "w"], ["y"], "third", transB=1),
    ]
    floats = (FLOAT, ["N", 4])
    data = model_bytes(nodes, {"x": floats}, {"y": floats}, {"w": w})
    result = quantize(data, fixed_ranges(x=3.0, a=6.0, b=12.0))
    names = [tensor.name for tensor in onnx.load_from_string(result.onnx).graph.initializer]
    assert [name for name in names if name.endswith("/int8")] == ["w/axis1/int8", "w/axis0/int8"]
    x = np.random.default_rng(1).uniform(-1, 1, (5, 4)).astype(np.float32)
    assert relative(x @ w @ w @ w.T, run(result.onnx, {"x": x})) < 0.05


def test_nameless_nodes_get_stable_unique_names():
    w = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"], "MatMul_0"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "MatMul_0"),
    ]
    floats = (FLOAT, ["N", 4])
    data = model_bytes(nodes, {"x": floats}, {"y": floats}, {"w": w})
    names = [item.node for item in quantizable_nodes(data)]
    assert names == ["MatMul_0_", "MatMul_0", "MatMul_0_2"]
    result = quantize(data, fixed_ranges(x=1.0, a=1.0, b=1.0), keep_float=["MatMul_0_"])
    assert result.quantized == ("MatMul_0", "MatMul_0_2")


@pytest.mark.parametrize("name", TOYS)
def test_equal_input_gives_equal_bytes(name):
    first, second = quantized(name), quantized(name)
    assert first == second
    assert to_float16(first.onnx) == to_float16(second.onnx)
    assert graph.save(graph.load(first.onnx)) == first.onnx, "the normal form is a fixed point"


def test_exporter_notes_do_not_survive():
    model = onnx.load_from_string(frame_toy())
    model.graph.node[0].doc_string = "/home/someone/secret.py"
    model.graph.node[1].metadata_props.add(key="trace", value="/home/someone/secret.py")
    result = quantize(model.SerializeToString(), ranges_of("frame"))
    assert b"secret" not in result.onnx and result.onnx == quantized("frame").onnx


def test_mistakes_are_named():
    with pytest.raises(CalibrationError, match="no range for 'x', the input of stem"):
        quantize(frame_toy(), ranges_of("clip"))
    with pytest.raises(CompileError, match="quantised already"):
        quantize(quantized("frame").onnx, ranges_of("frame"))
    with pytest.raises(CompileError, match="not an ONNX model"):
        quantize(b"not a model", ranges_of("frame"))
    with pytest.raises(CompileError, match="opset 17; expected 19 to 20"):
        quantize(model_bytes([], {}, {"y": (FLOAT, [1])}, {"y": np.ones(1, np.float32)}, opset=17), ranges_of("frame"))
    broken = np.array([[np.nan, 1]], np.float32)
    with pytest.raises(WeightsError, match="weight 'w' of node holds NaN or infinity"):
        quantize(layer("Gemm", broken, (1, 1)), fixed_ranges(x=1.0))
    with pytest.raises(CalibrationError, match="tensor 'x' reaches 1e\\+09"):
        quantize(layer("Gemm", np.ones((1, 1), np.float32), (1, 1)), fixed_ranges(x=1e9))


def test_tensor_specs():
    inputs, outputs = graph.tensor_specs(frame_toy())
    assert inputs == (TensorSpec("image", "uint8", ("N", 8, 8, 3)),)
    assert outputs == (TensorSpec("tokens", "float32", ("N", 16, 8)),)
    assert graph.tensor_specs(layer("Gemm", np.ones((1, 1), np.float32), (1, 1)))[0][0].shape == ("?", "?")


def test_a_missing_input_is_named():
    with pytest.raises(ShapeError, match="the graph reads image; got tokens"):
        graph.Session(frame_toy()).run({"tokens": images(1)})
