"""fp32 graph -> INT8, as Q/DQ nodes: precision lives in the graph and nowhere else.

Only convolutions and matrix products with constant weights become int8: per output channel for the weight, per tensor
for the activation, both symmetric. All else stays float: the residual stream, LayerNormalization, Softmax and the two
products inside attention, where int8 costs accuracy and gains next to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import CalibrationError, CompileError, WeightsError
from .. import graph as graphs
from .ranges import Ranges

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_CODES = 127  # int8 is used from -127 to 127, so that negation is exact
# Biases stay below 2**30 of their units: half of what int32 holds, since scales are rounded.
_BIAS_BITS = 30


@dataclass(frozen=True)
class QuantizableNode:
    """A node that can be int8. node: its name. activation, weight: its operands. axis: the weight's output channels."""

    node: str
    op_type: str
    activation: str
    weight: str
    axis: int


@dataclass(frozen=True)
class Quantized:
    """onnx: the Q/DQ graph. quantized: names of the int8 nodes, in graph order.
    kept_float: every other Conv, Gemm and MatMul, and why."""

    onnx: bytes
    quantized: tuple[str, ...]
    kept_float: dict[str, str]


def quantizable_nodes(onnx_bytes: bytes) -> tuple[QuantizableNode, ...]:
    """The nodes of an fp32 graph that ``quantize`` can turn into int8, in graph order."""
    return _survey(graphs.load(onnx_bytes))[0]


def activations(onnx_bytes: bytes) -> tuple[str, ...]:
    """The tensors whose ranges ``quantize`` needs, each once, in graph order."""
    return tuple(dict.fromkeys(layer.activation for layer in quantizable_nodes(onnx_bytes)))


def quantize(onnx_bytes: bytes, ranges: Ranges, *, keep_float: Collection[str] = ()) -> Quantized:
    """Portable int8 graph: Q/DQ on activation and weight of each quantised node, float32 rest.

    Weights are stored as int8. All zero points are 0 and biases stay float: TensorRT takes nothing else. Consumers of
    one tensor share one Q/DQ pair.

    ranges: of this very graph. keep_float: names of nodes to leave as they are.
    Raises CalibrationError if ranges are missing, CompileError for names in ``keep_float`` that are no quantisable
    node, WeightsError for NaN or infinity in a weight.
    """
    model = graphs.load(onnx_bytes)
    layers, kept_float = _survey(model)
    unknown = sorted(set(keep_float) - {layer.node for layer in layers})
    if unknown:
        names = ", ".join(layer.node for layer in layers) or "none"
        raise CompileError(f"keep_float names {unknown[0]!r}, which is not a quantisable node; available: {names}")
    chosen = {}
    for layer in layers:
        if layer.node in keep_float:
            kept_float[layer.node] = "asked to stay float"
        elif _threshold(ranges, layer) == 0:
            kept_float[layer.node] = f"its input {layer.activation} was zero throughout calibration"
        else:
            chosen[layer.node] = layer
    _insert(model, chosen, ranges)
    return Quantized(graphs.save(model), tuple(chosen), kept_float)


def float16_scales(limits: np.ndarray) -> np.ndarray:
    """float32 scales that map magnitudes up to ``limits`` onto the codes up to 127.

    Each is rounded up to a value that float16 holds exactly: the float32 and the float16 form of a graph then share
    one grid, and nothing is clipped for it. A limit of 0 (a dead channel) gets scale 1.
    """
    wanted = np.where(limits > 0, np.asarray(limits, np.float64) / _CODES, 1.0)
    with np.errstate(over="ignore"):
        scales = wanted.astype(np.float16)
        scales = np.where(scales < wanted, np.nextafter(scales, np.float16(np.inf)), scales)
    return scales.astype(np.float32)


def _survey(model: onnx.ModelProto) -> tuple[tuple[QuantizableNode, ...], dict[str, str]]:
    """The layers that can be int8, and for all other weighted operators the reason why not."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise CompileError("the graph is quantised already; quantise the fp32 graph it came from")
    constants = graphs.initializers(model)
    layers, kept_float = [], {}
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        activation, weight = node.input[:2]
        reason = _why_not(activation, constants.get(weight), constants, node.op_type)
        if reason:
            kept_float[node.name] = reason
        else:
            layers.append(QuantizableNode(node.name, node.op_type, activation, weight, _channel_axis(node)))
    return tuple(layers), kept_float


def _why_not(activation: str, weight: TensorProto | None, constants: Collection[str], op_type: str) -> str | None:
    if weight is None and activation in constants:
        return "its constant operand comes first"
    if weight is None:
        return "it multiplies two activations"
    if activation in constants:
        return "its input is a constant"
    if weight.data_type != TensorProto.FLOAT:
        return f"its weight is {TensorProto.DataType.Name(weight.data_type).lower()}, not float32"
    if op_type == "MatMul" and len(weight.dims) != 2:
        return f"its weight has {len(weight.dims)} axes, not 2"
    return None


def _channel_axis(node: onnx.NodeProto) -> int:
    """Axis of the output channels: 0 in Conv (O, I/group, ...) and Gemm with transB (O, I), else 1: (I, O)."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _threshold(ranges: Ranges, layer: QuantizableNode) -> float:
    if layer.activation not in ranges.thresholds:
        raise CalibrationError(
            f"no range for {layer.activation!r}, the input of {layer.node}; these ranges come from another graph"
        )
    return ranges.thresholds[layer.activation]


def _insert(model: onnx.ModelProto, chosen: dict[str, QuantizableNode], ranges: Ranges) -> None:
    """Rewires the chosen nodes to dequantised operands; each pair of nodes comes right before its first consumer."""
    graph, constants = model.graph, graphs.initializers(model)
    floors = _scale_floors(model, chosen, ranges)
    ready: dict[object, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        layer = chosen.get(node.name)
        if layer:
            source, key = layer.activation, (layer.weight, layer.axis)
            if source not in ready:
                ready[source] = _dequantized_activation(graph, nodes, source, ranges.thresholds[source])
            if key not in ready:
                ready[key] = _dequantized_weight(graph, nodes, layer, constants[layer.weight], floors.get(key))
            node.input[0], node.input[1] = ready[source], ready[key]
        nodes.append(node)
    graphs.replace(graph.node, nodes)


def _scale_floors(
    model: onnx.ModelProto, chosen: dict[str, QuantizableNode], ranges: Ranges
) -> dict[object, np.ndarray]:
    """(weight, axis) -> the least scale of each output channel that keeps its bias within int32.

    Runtimes with integer kernels hold a bias in units of input scale times weight scale. In a channel whose weights are
    next to nothing that unit is so small that the bias overflows, silently. A coarser grid costs such a channel nothing
    that its bias would not drown.
    """
    floors: dict[object, np.ndarray] = {}
    for layer, bias in _biases(model, chosen):
        unit = float(float16_scales(np.array(ranges.thresholds[layer.activation]))) * 2**_BIAS_BITS
        size, key = np.abs(np.atleast_1d(bias)), (layer.weight, layer.axis)
        # A number, a row, or a row for each item of the batch: the channels come last in all of them.
        floor = size.reshape(-1, size.shape[-1]).max(axis=0) / unit
        floors[key] = np.maximum(floor, floors.get(key, 0.0))
    return floors


def _biases(model: onnx.ModelProto, chosen: dict[str, QuantizableNode]) -> Iterator[tuple[QuantizableNode, np.ndarray]]:
    """The biases of the layers: their third inputs, and constants added to a product, which runtimes make a bias of."""
    constants = graphs.initializers(model)
    products = {node.output[0]: node.name for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        name, candidates = node.name, node.input[2:]
        if node.op_type == "Add":
            name, candidates = next((products[value] for value in node.input if value in products), ""), node.input
        for tensor in filter(None, map(constants.get, candidates)):
            if name in chosen and tensor.data_type == TensorProto.FLOAT:
                yield chosen[name], numpy_helper.to_array(tensor)


def _dequantized_activation(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], name: str, threshold: float) -> str:
    scale = float16_scales(np.array(threshold))
    if not np.isfinite(scale):
        raise CalibrationError(f"tensor {name!r} reaches {threshold:.4g}, far beyond float16; check the weights")
    _add(graph, f"{name}/scale", scale)
    _add(graph, f"{name}/zero_point", np.zeros((), np.int8))
    parameters = [f"{name}/scale", f"{name}/zero_point"]
    nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}/int8"], f"{name}/quantize"))
    return _dequantize(nodes, name, f"{name}/int8", parameters)


def _dequantized_weight(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    layer: QuantizableNode,
    tensor: TensorProto,
    floor: np.ndarray | None,
) -> str:
    weight = numpy_helper.to_array(tensor)
    if not np.isfinite(weight).all():
        raise WeightsError(f"weight {layer.weight!r} of {layer.node} holds NaN or infinity; use other weights")
    name = f"{layer.weight}/axis{layer.axis}"
    codes, scales = _quantize_weight(weight, layer.axis, floor)
    _add(graph, f"{name}/int8", codes)
    _add(graph, f"{name}/scale", scales)
    _add(graph, f"{name}/zero_point", np.zeros(scales.shape, np.int8))
    return _dequantize(nodes, name, f"{name}/int8", [f"{name}/scale", f"{name}/zero_point"], axis=layer.axis)


def _quantize_weight(weight: np.ndarray, axis: int, floor: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(int8 codes, shape of weight; float32 scales, one for each index of ``axis``). floor: least scale of each."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    limits = np.abs(weight).max(axis=others)
    scales = float16_scales(limits if floor is None else np.maximum(limits, floor * _CODES))
    if not np.isfinite(scales).all():
        raise WeightsError(f"a weight reaches {np.abs(weight).max():.4g}, far beyond float16; use other weights")
    codes = np.rint(weight / np.expand_dims(scales, others))
    return np.clip(codes, -_CODES, _CODES).astype(np.int8), scales


def _dequantize(
    nodes: list[onnx.NodeProto], name: str, codes: str, parameters: Sequence[str], axis: int | None = None
) -> str:
    output = f"{name}/dequantized"
    nodes.append(helper.make_node("DequantizeLinear", [codes, *parameters], [output], f"{name}/dequantize", axis=axis))
    return output


def _add(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
