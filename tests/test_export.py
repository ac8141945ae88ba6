import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from toy_model import build_uneven

from vlf_edge.backends.openvino import shared_core
from vlf_edge.compiler.onnx_export import OPSET, export_stage, torch_outputs
from vlf_edge.errors import ExportError
from vlf_edge.models import create_model
from vlf_edge.models.stage import Stage
from vlf_edge.types import TensorSpec


@pytest.fixture(scope="module")
def toy():
    return build_uneven()


@pytest.fixture(scope="module")
def toy_exported(toy, uneven_graphs):
    """(stage, ONNX bytes) of both stages."""
    return [(stage, uneven_graphs[stage.name]) for stage in toy.stages()]


@pytest.fixture(scope="module", params=["toy", "vlf-tiny"])
def exported(request, toy_exported, exported_graphs):
    if request.param == "toy":
        return toy_exported
    graphs = exported_graphs("vlf-tiny")
    return [(stage, graphs[stage.name]) for stage in create_model("vlf-tiny", 12, seed=0).stages()]


@pytest.fixture(scope="module")
def toy_graphs(toy_exported):
    return {stage.name: onnx.load_from_string(graph) for stage, graph in toy_exported}


def arrays(stage, batch):
    rng = np.random.default_rng(batch)
    for spec in stage.inputs:
        shape = [batch if axis == "N" else axis for axis in spec.shape]
        if spec.dtype == "uint8":
            yield rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            yield rng.standard_normal(shape).astype(spec.dtype)


def assert_close(got, wanted):
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    assert wanted.std() > 0.05  # a constant would agree with anything
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_answers_as_torch(exported, batch):
    for stage, graph in exported:
        inputs = list(arrays(stage, batch))
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (got,) = session.run([stage.outputs[0].name], {stage.inputs[0].name: inputs[0]})
        assert_close(got, torch_outputs(stage, *inputs)[0])


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_answers_as_torch(exported, batch):
    for stage, graph in exported:
        inputs = list(arrays(stage, batch))
        core = shared_core()
        compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        assert_close(compiled(inputs)[0], torch_outputs(stage, *inputs)[0])


def test_two_graphs_in_a_row_are_the_model(toy, toy_graphs):
    clip = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 64, 3), dtype=np.uint8)
    frame, head = (onnxruntime.InferenceSession(g.SerializeToString()) for g in toy_graphs.values())
    tokens = frame.run(None, {"image": clip.reshape(6, 32, 64, 3)})[0]
    (logits,) = head.run(None, {"tokens": tokens.reshape(2, 3, *tokens.shape[1:])})
    toy.eval()
    with torch.no_grad():
        assert_close(logits, toy(torch.from_numpy(clip)).numpy())


def test_the_frame_graph_is_as_lean_as_it_can_be(toy_graphs):
    kinds = Counter(node.op_type for node in toy_graphs["frame"].graph.node)
    assert kinds == {
        "Cast": 1, "Slice": 1, "Sub": 1, "Div": 1, "Conv": 13, "MaxPool": 1, "AveragePool": 2, "Relu": 10,
        "LayerNormalization": 3, "MatMul": 6, "Add": 10, "Split": 1, "Mul": 1, "Softmax": 1, "Reshape": 5,
        "Transpose": 6,
    }  # fmt: skip


def test_the_clip_graph_is_as_lean_as_it_can_be(toy_graphs):
    kinds = Counter(node.op_type for node in toy_graphs["clip"].graph.node)
    assert kinds == {
        "LayerNormalization": 3, "MatMul": 6, "Gemm": 2, "Add": 7, "Relu": 2, "Split": 1, "Mul": 1, "Softmax": 1,
        "Reshape": 5, "Transpose": 4, "ReduceMean": 1,
    }  # fmt: skip


def test_the_image_is_cast_first(toy_graphs):
    readers = [node.op_type for node in toy_graphs["frame"].graph.node if "image" in node.input]
    assert readers == ["Cast"]


def test_weights_are_read_directly(toy_graphs):
    """The quantiser looks for initializers at the second input; attention's two products have none."""
    for graph in (g.graph for g in toy_graphs.values()):
        constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm"):
                assert node.input[1] in constants and len(node.input) == 3, node.name
        without = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in constants]
        assert len(without) == 2 and all(name.split("/")[0].endswith("layers.0") for name in without)
    # (in, out) as ONNX multiplies: the channel axis of a MatMul weight is 1
    assert {t.name: tuple(t.dims) for t in toy_graphs["clip"].graph.initializer}["h.layers.0.qkv.weight"] == (16, 48)


def test_nothing_is_left_over(toy_graphs):
    for graph in (g.graph for g in toy_graphs.values()):
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        assert [tensor.name for tensor in graph.initializer if tensor.name not in read] == []
        assert [node.name for node in graph.node if not read & set(node.output)] == []
        names = [node.name for node in graph.node]
        assert len(set(names)) == len(names)


def test_names_say_which_module_a_node_is(toy_graphs):
    names = {node.name for node in toy_graphs["frame"].graph.node}
    assert {"f.net.layer1.0.conv1/Conv", "project.0/Conv", "g.layers.0.qkv/MatMul", "g.layers.0.qkv/Split"} <= names


def test_header_and_interface(toy, toy_graphs):
    for stage in toy.stages():
        model = toy_graphs[stage.name]
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)] == [("", 20)]
        assert (model.ir_version, model.producer_name, model.producer_version) == (10, "vlf_edge", "")
        assert [value.name for value in model.graph.input] == [spec.name for spec in stage.inputs]
        assert [value.name for value in model.graph.output] == [spec.name for spec in stage.outputs]
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_no_trace_of_this_machine(exported):
    traces = (b"site-packages", b"vlf.py", b"backbone.py", b"pkg.torch", b"pytorch", b"forward", bytes(Path.cwd()))
    for _, graph in exported:
        assert [trace for trace in traces if trace in graph] == []
        model = onnx.load_from_string(graph)
        assert not model.doc_string and not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


SCRIPT = """
import hashlib, sys, warnings
sys.path.insert(0, sys.argv[1])
from toy_model import build_uneven
from vlf_edge.compiler.onnx_export import export_stage
toy = build_uneven().train()
toy.frame.f.eval()
warnings.simplefilter("error")
print(hashlib.sha256(export_stage(toy.stages()[0])).hexdigest())
print(toy.training, toy.frame.training, toy.frame.f.training, toy.frame.g.training)
"""


@pytest.mark.slow
def test_another_process_gives_the_same_bytes_says_nothing_and_leaves_the_model_as_it_was(toy_exported, tmp_path):
    here = hashlib.sha256(toy_exported[0][1]).hexdigest()  # of the frame stage, which has all that the other has
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0 and not run.stderr, run.stderr
    assert run.stdout.split() == [here, "True", "True", "False", "True"]


@pytest.mark.slow
def test_the_largest_size_exports(exported_graphs):
    for exported in exported_graphs("vlf").values():
        graph = onnx.load_from_string(exported).graph
        kinds = Counter(node.op_type for node in graph.node)
        assert not {"BatchNormalization", "Identity", "Shape", "Concat", "Gather"} & set(kinds)
        constants = {tensor.name for tensor in graph.initializer}
        assert all(n.input[1] in constants for n in graph.node if n.op_type in ("Conv", "Gemm"))
        products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] not in constants]
        assert len(products) == 2 * kinds["Softmax"]


def stage_of(module, dtype="float32", shape=("N", 4), out=None):
    return Stage("odd", module, (TensorSpec("x", dtype, shape),), (TensorSpec("y", "float32", out or shape),))


class Reshaped(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 2, 2).float()


class HalfInside(nn.Module):
    def forward(self, x):
        return (x.half() * 2).float()


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Causal(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def refusal(stage):
    with pytest.raises(ExportError) as raised:
        export_stage(stage)
    said = str(raised.value)
    assert "stage 'odd'" in said and "\n" not in said
    return said


def test_a_uint8_input_that_is_not_cast_first_is_refused():
    said = refusal(stage_of(Reshaped(), "uint8", out=("N", 2, 2)))
    assert "reads a uint8 input, where only a Cast may" in said


def test_half_precision_inside_is_refused():
    assert "float16" in refusal(stage_of(HalfInside()))


def test_outputs_other_than_announced_are_refused():
    assert "outputs are y float32(N, 4), expected y float32(N, 5)" in refusal(stage_of(nn.ReLU(), out=("N", 5)))


def test_what_torch_cannot_trace_is_one_sentence():
    assert "could not be exported to ONNX" in refusal(stage_of(Branching()))


def test_attention_of_another_kind_is_refused():
    said = refusal(stage_of(Causal(), shape=("N", 1, 4, 4)))
    assert "NotImplementedError: attention with a causal" in said


def test_a_layernorm_taken_apart_is_refused(monkeypatch):
    """As if the exporter had no LayerNormalization."""
    import vlf_edge.compiler.onnx_export as module

    monkeypatch.setattr(module, "_count_layer_norms", lambda traced: 2)
    assert "2 LayerNorm modules became 1 LayerNormalization nodes" in refusal(stage_of(nn.LayerNorm(4)))
