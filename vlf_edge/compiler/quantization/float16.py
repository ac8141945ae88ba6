"""fp32 or Q/DQ graph -> the same in float16: the strongly typed graph that TensorRT compiles."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import CompileError
from .. import graph as graphs

_HALF = np.finfo(np.float16)


def to_float16(onnx_bytes: bytes, keep_io: Collection[str] = ("logits", "features")) -> bytes:
    """The strongly typed graph for TensorRT: every float32 tensor becomes float16, inputs and outputs too.

    keep_io: inputs and outputs that stay float32, behind one Cast; names the graph lacks are ignored. Constants of
    operators that take float32 only (the scales of Resize) stay too. Takes fp32 and Q/DQ graphs; integer tensors, a
    uint8 image among them, are left alone.
    Raises CompileError if a constant does not fit float16 or an operator has no float16 form.
    """
    model = graphs.load(onnx_bytes)
    graph = model.graph
    _convert_constants(model)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_half_tensor(attribute.t))
    casts_in = [cast for value in graph.input for cast in _convert_io(graph, value, keep_io, inward=True)]
    casts_out = [cast for value in graph.output for cast in _convert_io(graph, value, keep_io, inward=False)]
    graphs.replace(graph.node, [*casts_in, *graph.node, *casts_out])
    data = graphs.save(model)
    _check_no_float(data)
    return data


def _convert_constants(model: onnx.ModelProto) -> None:
    """float32 initializers to float16; operators that take one in float32 only get a float32 copy of it."""
    graph, constants = model.graph, graphs.initializers(model)
    copies: dict[str, TensorProto] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            tensor = constants.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT or _takes_half(model, node, index):
                continue
            copies[name] = numpy_helper.from_array(numpy_helper.to_array(tensor), f"{name}/float32")
            node.input[index] = f"{name}/float32"
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_half_tensor(tensor))
    graph.initializer.extend(copies.values())


def _takes_half(model: onnx.ModelProto, node: onnx.NodeProto, index: int) -> bool:
    """Whether the operator's own definition allows float16 for that input."""
    formal = onnx.defs.get_schema(node.op_type, graphs.opset_of(model)).inputs
    return "tensor(float16)" in formal[min(index, len(formal) - 1)].types


def _half_tensor(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    ends = np.finfo(np.float32)
    # The two ends of float32 are how masks write infinity.
    values = np.where(values == ends.min, _HALF.min, np.where(values == ends.max, _HALF.max, values))
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.isinf(half[np.isfinite(values)]).any():
        most = np.abs(values[np.isfinite(values)]).max()
        raise CompileError(
            f"constant {tensor.name!r} reaches {most:.4g}, but float16 ends at {_HALF.max:.0f}; use --precision fp32"
        )
    if half.size == 1:  # an epsilon must not become 0
        smallest = np.copysign(_HALF.smallest_subnormal, half)
        half = np.where((half == 0) & (values != 0), smallest, half)
    return numpy_helper.from_array(half, tensor.name)


def _convert_io(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, keep_io: Collection[str], *, inward: bool
) -> list[onnx.NodeProto]:
    """Makes a float32 input or output float16. One to be kept is renamed inside, and a Cast joins the two names."""
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        return []
    if value.name not in keep_io:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
        return []
    name, inner = value.name, f"{value.name}/float16"
    for node in graph.node:
        graphs.replace(node.input, [inner if n == name else n for n in node.input])
        graphs.replace(node.output, [inner if n == name else n for n in node.output])
    if inward:
        return [helper.make_node("Cast", [name], [inner], f"{name}/cast", to=TensorProto.FLOAT16)]
    return [helper.make_node("Cast", [inner], [name], f"{name}/cast", to=TensorProto.FLOAT)]


def _check_no_float(onnx_bytes: bytes) -> None:
    """Raises CompileError for float32 left inside: TensorRT would run it in float32, or refuse it on Turing."""
    model = onnx.load_model_from_string(onnx_bytes)
    values = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph.value_info
    wide = (TensorProto.FLOAT, TensorProto.DOUBLE)
    left = [value.name for value in values if value.type.tensor_type.elem_type in wide]
    if left:
        raise CompileError(f"tensor {left[0]!r} has no float16 form ({len(left)} in all); use --precision fp32")
