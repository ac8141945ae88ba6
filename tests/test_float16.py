"""The strongly typed form of a graph: types, constants, interfaces, and that TensorRT-RTX builds it."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_toys import FLOAT, TOYS, clip_toy, model_bytes, quantized, relative, run

from vlf_edge.compiler import graph
from vlf_edge.compiler.quantization.float16 import to_float16
from vlf_edge.errors import CompileError


@pytest.mark.parametrize("int8", [True, False])
def test_float16_interfaces_and_types(int8):
    typed = {name: to_float16(quantized(name).onnx if int8 else data) for name, (data, _) in TOYS.items()}
    assert [spec.dtype for side in graph.tensor_specs(typed["frame"]) for spec in side] == ["uint8", "float16"]
    assert [spec.dtype for side in graph.tensor_specs(typed["clip"]) for spec in side] == ["float16", "float32"]
    for data in typed.values():
        onnx.checker.check_model(data, full_check=True)
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), check_type=True, strict_mode=True)
        assert model.opset_import[0].version == 20 and model.ir_version == 10
        assert not [v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == FLOAT]
        assert not [t.name for t in model.graph.initializer if t.data_type == FLOAT]
        casts = [(n.input[0], n.output[0]) for n in model.graph.node if n.op_type == "Cast"]
        assert casts in ([("image", "pixels")], [("logits/float16", "logits")])
        assert sum(n.op_type == "LayerNormalization" for n in model.graph.node) == 1
    (first,) = [n for n in onnx.load_from_string(typed["frame"]).graph.node if "image" in n.input]
    assert [a.i for a in first.attribute if a.name == "to"] == [TensorProto.FLOAT16]


def test_float16_keeps_chosen_inputs_and_outputs():
    data = to_float16(clip_toy(), keep_io=("tokens", "logits", "absent"))
    assert [spec.dtype for side in graph.tensor_specs(data) for spec in side] == ["float32", "float32"]
    assert relative(run(clip_toy(), TOYS["clip"][1]), run(data, TOYS["clip"][1])) < 2e-3
    assert [s.dtype for s in graph.tensor_specs(to_float16(clip_toy(), keep_io=()))[1]] == ["float16"]


def test_an_output_that_is_also_read_inside_can_be_kept():
    nodes = [helper.make_node("Relu", ["x"], ["logits"], "r"), helper.make_node("Softmax", ["logits"], ["p"], "s")]
    floats = (FLOAT, ["N", 4])
    data = to_float16(model_bytes(nodes, {"x": floats}, {"logits": floats, "p": floats}, {}))
    assert [spec.dtype for spec in graph.tensor_specs(data)[1]] == ["float32", "float16"]


def with_constant(op, constant, **attributes):
    nodes = [helper.make_node(op, ["x", "c"], ["y"], "node", **attributes)]
    floats = (FLOAT, ["N", 2])
    return model_bytes(nodes, {"x": floats}, {"y": floats}, {"c": constant})


def test_constants_that_float16_cannot_hold():
    with pytest.raises(CompileError, match="constant 'c' reaches 7e\\+04, but float16 ends at 65504"):
        to_float16(with_constant("Mul", np.array([1, 7e4], np.float32)))
    for mask, expected in ((np.finfo(np.float32).min, -65504), (-np.inf, -np.inf)):
        data = to_float16(with_constant("Add", np.array([0, mask], np.float32)))
        np.testing.assert_array_equal(run(data, {"x": np.ones((1, 2), np.float32)}), [[1, expected]])


def test_an_epsilon_does_not_become_zero():
    y = run(to_float16(with_constant("Div", np.array(1e-12, np.float32))), {"x": np.zeros((1, 2), np.float32)})
    np.testing.assert_array_equal(y, [[0, 0]])
    y = run(to_float16(with_constant("Max", np.array(-1e-12, np.float32))), {"x": -np.ones((1, 2), np.float32)})
    assert (y < 0).all()


def test_operators_that_take_float32_only_keep_it():
    """Resize reads its scales in float32 only; here another node reads the same constant."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], "resize", mode="linear"),
        helper.make_node("Mul", ["big", "scales"], ["y"], "mul"),
    ]
    scales = np.array([1, 1, 2, 1], np.float32)
    data = model_bytes(nodes, {"x": (FLOAT, [1, 1, 2, 4])}, {"y": (FLOAT, [1, 1, 4, 4])}, {"scales": scales})
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4)
    np.testing.assert_allclose(run(to_float16(data), {"x": x}), run(data, {"x": x}), rtol=1e-2)


def test_operators_without_float16_form_are_refused():
    nodes = [
        helper.make_node("RandomUniform", [], ["noise"], "noise", shape=[2, 2]),
        helper.make_node("MatMul", ["x", "noise"], ["y"], "mul"),
    ]
    with pytest.raises(CompileError):
        to_float16(model_bytes(nodes, {"x": (FLOAT, [2, 2])}, {"y": (FLOAT, [2, 2])}, {}))


def test_foreign_operators_are_refused():
    nodes = [helper.make_node("FusedConv", ["x"], ["y"], "fused", domain="com.microsoft")]
    with pytest.raises(CompileError, match="'fused' .com.microsoft.FusedConv. is no standard operator of opset 20"):
        to_float16(model_bytes(nodes, {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}, {}))


def test_branches_are_refused():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", FLOAT, [1])]
    )
    nodes = [helper.make_node("If", ["flag"], ["y"], "if", then_branch=branch, else_branch=branch)]
    inputs = {"x": (FLOAT, [1]), "flag": (TensorProto.BOOL, [])}
    with pytest.raises(CompileError, match="'if' is a branch or loop"):
        to_float16(model_bytes(nodes, inputs, {"y": (FLOAT, [1])}, {}))


BUILD = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse(open(sys.argv[1], "rb").read()):
    sys.exit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(getattr(trt.ComputeCapability, sys.argv[2]), 0)
profile = builder.create_optimization_profile()
shape = list(network.get_input(0).shape)[1:]
profile.set_shape(network.get_input(0).name, [1, *shape], [1, *shape], [4, *shape])
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
sys.exit(0 if engine is not None and engine.nbytes > 10_000 else "no engine")
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("target", ["SM75", "SM86"])
@pytest.mark.parametrize("name", TOYS)
def test_typed_graphs_build_with_tensorrt_rtx(name, target, tmp_path):
    path = tmp_path / "typed.onnx"
    path.write_bytes(to_float16(quantized(name).onnx))
    done = subprocess.run([sys.executable, "-c", BUILD, path, target], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
