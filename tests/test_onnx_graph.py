"""The reader of ONNX graphs: what it says is what the onnx package says, and what it refuses is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_toys
import pytest
import toy_graphs
from onnx import TensorProto, helper, numpy_helper

from vlf_edge import PlanError
from vlf_edge.compiler.graph import opset_of, tensor_specs
from vlf_edge.compiler.quantization.float16 import to_float16
from vlf_edge.onnx_graph import MAX_NODES, read_graph

FLOAT = TensorProto.FLOAT


def a_model(change=lambda model: None) -> bytes:
    """x (N, 2) -> Add -> y (N, 2), after a change of its protobuf."""
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["N", 2]) for name in "xy")
    node = helper.make_node("Add", ["x", "w"], ["y"], "add")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(np.ones(2, np.float32), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    change(model)
    return model.SerializeToString(deterministic=True)


def graphs_to_compare():
    yield toy_graphs.toy_frame()
    yield toy_graphs.toy_clip("float16", batch=2)
    for data, _ in onnx_toys.TOYS.values():
        yield data
    yield onnx_toys.quantized("frame").onnx
    yield to_float16(onnx_toys.quantized("clip").onnx)
    yield a_model(lambda m: m.graph.output[0].type.tensor_type.shape.dim[0].ClearField("dim_param"))
    yield a_model(lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0])))


@pytest.mark.parametrize("data", graphs_to_compare())
def test_it_says_what_the_onnx_package_says(data):
    model = onnx.load_model_from_string(data)
    found = read_graph(data, "it")
    assert (found.inputs, found.outputs) == tensor_specs(data)
    assert found.operators == Counter(node.op_type for node in model.graph.node)
    assert found.constants_bytes == sum(numpy_helper.to_array(t).nbytes for t in model.graph.initializer)
    assert found.opset == opset_of(model)


def test_numbers_that_are_not_raw_bytes_are_counted():
    values = helper.make_tensor("w", TensorProto.INT64, [3], [1, 2, 1 << 40])
    assert not values.raw_data
    assert read_graph(a_model(lambda m: m.graph.initializer.append(values)), "it").constants_bytes == 8 + 24
    with pytest.raises(PlanError, match="claims 900000 elements of 64 bits, but 8 bytes are there"):
        values.dims[:] = [900_000]
        read_graph(a_model(lambda m: m.graph.initializer.append(values)), "it")


def subgraph():
    return helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "inner", [], [])


def external(tensor):
    onnx.external_data_helper.set_external_data(tensor, "etc/shadow")
    tensor.ClearField("raw_data")


def constant(**fields):
    tensor = TensorProto(name="c", data_type=FLOAT, **fields)
    return lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def node(*args, **attributes):
    return lambda m: m.graph.node.append(helper.make_node(*args, **attributes))


def first_dim(**fields):
    def change(model):
        dim = model.graph.input[0].type.tensor_type.shape.dim[0]
        dim.Clear()
        for name, value in fields.items():
            setattr(dim, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (node("Loop", ["x"], ["z"], body=subgraph()), r"\(Loop\) is a loop or branch"),
        (node("Loop", ["x"], ["z"]), r"node '' \(Loop\) is a loop or branch"),
        (node("If", ["x"], ["z"], then_branch=subgraph(), else_branch=subgraph()), "is a loop or branch"),
        (node("Scan", ["x"], ["z"], body=subgraph(), num_scan_inputs=1), "is a loop or branch"),
        (node("Relu", ["x"], ["z"], odd=[subgraph()]), "a graph within"),
        (node("Gelu", ["x"], ["z"], domain="com.microsoft"), r"\(Gelu\) is of the domain 'com.microsoft'"),
        (lambda m: m.opset_import.append(helper.make_opsetid("mine", 1)), "the model is of the domain 'mine'"),
        (lambda m: m.functions.add(name="f"), "functions of its own"),
        (lambda m: m.training_info.add(), "a graph to train"),
        (lambda m: external(m.graph.initializer[0]), "its bytes in another file"),
        (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "its bytes in another file"),
        (constant(dims=[2], raw_data=b"12345678", data_location=1), "its bytes in another file"),
        (constant(dims=[2, 1 << 30], raw_data=b"12345678"), "claims 2147483648 elements of 32 bits, but 8 bytes"),
        (constant(dims=[1 << 40]), "has the sizes"),
        (constant(dims=[-1]), "has the sizes"),
        (constant(dims=[1] * 17, raw_data=b"1234"), "has the sizes"),
        (constant(dims=[1 << 20], float_data=[1.0]), "but 4 bytes are there"),
        (lambda m: m.graph.sparse_initializer.add(), "a sparse tensor"),
        (lambda m: m.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])), "text in it"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 99), "element type 99, expected one of float32"),
        (lambda m: setattr(m.graph.node[0], "name", "a\x1b[2J"), "a name that is too long or cannot be printed"),
        (lambda m: setattr(m.graph.node[0], "name", "a" * 2000), "a name that is too long or cannot be printed"),
        (lambda m: m.graph.ClearField("node"), f"it has 0 nodes, expected 1 to {MAX_NODES}"),
        (lambda m: m.graph.node.extend([m.graph.node[0]] * MAX_NODES), f"it has {MAX_NODES + 1} nodes"),
        (lambda m: m.ClearField("graph"), "it has no graph"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "has no shape"),
        (lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent(), "a field 4"),
        (lambda m: m.graph.node[0].attribute.add(name="a", ref_attr_name="b"), "functions of its own"),
    ],
)
def test_what_no_plan_holds_is_refused(change, words):
    with pytest.raises(PlanError, match=f"it is no ONNX graph that a plan may hold: .*{words}"):
        read_graph(a_model(change), "it")


def field(number: int, data: bytes | int) -> bytes:
    """One field of a protobuf message, by hand."""

    def varint(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    return varint(number << 3 | 2) + varint(len(data)) + data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (a_model() + field(7, b""), "its graph twice"),  # protobuf would merge the second into the first
        (a_model() + field(7, field(15, b"")), "its graph twice"),
        (a_model() + b"\x0b\x0c", "damaged"),  # a group
        (a_model() + b"\x80" * 11, "damaged"),
        (a_model() + field(1, 1 << 64), "damaged"),
        (a_model() + field(8, field(2, b"x")), "a damaged version"),
        (a_model() + field(2, b"x")[:-1] + b"", "cut off"),
        (a_model() + field(77, 1), "the model has a field 77"),
        (a_model() + field(8, field(1, b"\xff")), "utf-8"),
        (a_model() + field(6, 0) * 300_001, "more than 300000 fields"),
        (b"garbage" * 9, "damaged, or no ONNX|cut off, or no ONNX"),
        (b"", "it has no graph"),
    ],
)
def test_what_protobuf_would_read_in_another_way_is_refused(data, words):
    with pytest.raises(PlanError, match=words):
        read_graph(data, "it")


@pytest.mark.parametrize("number", [1, (1 << 32) + 1, 1 << 32])
def test_a_number_that_libraries_would_shorten_is_no_way_round(number):
    external_tensor = field(1, 2) + field(2, 1) + field(8, b"w") + field(9, b"12345678") + field(14, number)
    model = field(7, field(1, field(4, b"Relu")) + field(5, external_tensor))
    with pytest.raises(PlanError, match="another file"):
        read_graph(model, "it")
    spelled_out = field(7, field(1, field(4, b"Relu")) + field(5, external_tensor[: -len(field(14, number))]))
    assert read_graph(spelled_out, "it").constants_bytes == 8


def test_an_axis_has_a_size_or_a_name():
    assert read_graph(a_model(first_dim(dim_value=3)), "it").inputs[0].shape == (3, 2)
    both = field(1, 3) + field(2, b"N")  # a library takes the last
    value = field(1, b"x") + field(2, field(1, field(1, 1) + field(2, field(1, both))))
    with pytest.raises(PlanError, match="an axis with both a size and a name"):
        read_graph(field(7, field(1, field(4, b"Relu")) + field(11, value)), "it")


def test_what_is_cut_off_or_changed_anywhere_is_one_error_or_read_as_onnx_reads_it():
    data, rng = onnx_toys.TOYS["clip"][0], np.random.default_rng(0)
    mutants = [data[:cut] for cut in range(0, len(data), 13)]
    for place in rng.integers(0, len(data), 400):
        broken = bytearray(data)
        broken[place] = rng.integers(256)
        mutants.append(bytes(broken))
    read = 0
    for mutant in mutants:
        try:
            found = read_graph(mutant, "it")
        except PlanError:
            continue
        model = onnx.load_model_from_string(mutant)
        assert found.operators == Counter(node.op_type for node in model.graph.node)
        assert [s.name for s in found.outputs] == [value.name for value in model.graph.output]
        assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
        read += 1
    assert read > 50  # most bytes are those of weights
