"""Rooflines: what a stage must compute and move at least, over what this device was measured to do at most.

Work is counted in the ONNX graph that runs. Multiply-adds are those of Conv, Gemm and MatMul. There are two bounds:

  of the stage    its weights, once a call, and its inputs and outputs, once for each item: as if all between them
                  stayed in caches. Nothing can be faster, and large batches of a convolutional net come nowhere near.
  of its layers   the sum over its products of what each takes by itself: with its weights, what it reads and what it
                  writes. What lies between two products is part of one. Only what fuses products can be faster.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
import torch

from vlf_edge import VlfError
from vlf_edge.compiler import graph as graphs

FLOATS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
WIDTHS = {"int8": 1, "fp16": 2, "fp32": 4}  # bytes
Peaks = Mapping[str, float]  # multiply-adds a second by "int8", "fp16", "fp32"; bytes a second by "copy"


@dataclass(frozen=True)
class Work:
    """multiply_adds: by the type they are computed in, for one item of the batch. weight_bytes: read once a call.
    item_bytes: inputs and outputs of one item. layers: each product by itself."""

    multiply_adds: Mapping[str, int]
    weight_bytes: int
    item_bytes: int
    layers: tuple[Work, ...] = ()

    def layers_s(self, batch: int, peaks: Peaks) -> float | None:
        """The shortest time of a call whose products run one after the other, as ``least_s``."""
        each_s = [layer.least_s(batch, peaks) for layer in self.layers]
        return None if not each_s or None in each_s else sum(each_s)

    def least_s(self, batch: int, peaks: Peaks) -> float | None:
        """The shortest time a call of that batch can take; None if a peak it needs was not measured."""
        if "copy" not in peaks or not self.multiply_adds.keys() <= peaks.keys():
            return None
        compute_s = sum(batch * count / peaks[kind] for kind, count in self.multiply_adds.items())
        return max(compute_s, (self.weight_bytes + batch * self.item_bytes) / peaks["copy"])

    def __add__(self, other: Work) -> Work:
        """One after the other, as one call."""
        together = Counter(self.multiply_adds) + Counter(other.multiply_adds)
        bytes_ = (self.weight_bytes + other.weight_bytes, self.item_bytes + other.item_bytes)
        return Work(together, *bytes_, self.layers + other.layers)


def count(onnx_bytes: bytes) -> Work:
    """The work of a graph. A product counts as int8 if both its factors come out of DequantizeLinear.

    Raises VlfError for a product whose shapes cannot be inferred.
    """
    model = graphs.load(onnx_bytes)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = {tensor.name for tensor in graph.initializer}
    adds: Counter[str] = Counter()
    layers = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            int8 = set(node.input[:2]) <= quantized.keys()
            kind = "int8" if int8 else FLOATS.get(types.get(node.output[0]), "fp32")
            products = _multiply_adds(node, shapes)
            adds[kind] += products
            # Numbers are as wide as the factors; what is written may be rounded before it leaves the chip.
            size = {name: math.prod(shapes[name]) * WIDTHS[kind] for name in (*node.input[:2], node.output[0])}
            fixed = [name for name in node.input[:2] if quantized.get(name, name) in constants]
            moved = sum(size.values())
            weights = sum(size[name] for name in fixed)
            layers.append(Work({kind: products}, weights, moved - weights))
    weight_bytes = sum(_bytes(tensor.dims, tensor.data_type) for tensor in graph.initializer)
    interface = [*graph.input, *graph.output]
    item_bytes = sum(_bytes(shapes[v.name], v.type.tensor_type.elem_type) for v in interface)
    return Work(adds, weight_bytes, item_bytes, tuple(layers))


def measure_peaks(device: str, *, side: int = 8192, copy_bytes: int = 1 << 30) -> tuple[Peaks, dict[str, str]]:
    """(what the device does at most, {what could not be measured: why}): square products of ``side`` in int8, fp16 and
    fp32, and a copy of ``copy_bytes`` within its memory, which reads and writes each byte."""
    peaks, missing = {}, {}

    def product(kind: str) -> Callable[[], object]:
        a, b = (random(kind, (side, side), device) for _ in range(2))
        return (lambda: torch._int_mm(a, b)) if kind == "int8" else (lambda: a @ b)

    for kind in ("int8", "fp16", "fp32"):
        try:
            peaks[kind] = side**3 / best_s(product(kind), device)
        except (RuntimeError, AttributeError) as error:  # no such kernel, or no memory for it
            missing[kind] = str(error).splitlines()[0]
    source = random("int8", (copy_bytes,), device)
    target = torch.empty_like(source)
    peaks["copy"] = 2 * copy_bytes / best_s(lambda: target.copy_(source), device)
    return peaks, missing


def random(kind: str, shape: tuple[int, ...], device: str) -> torch.Tensor:
    """Of a normal distribution, int8 evenly. A chip that multiplies ones switches less, draws less power and clocks
    higher than one that works on data."""
    generator = torch.Generator(device).manual_seed(0)
    if kind == "int8":
        return torch.randint(-127, 128, shape, dtype=torch.int8, device=device, generator=generator)
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[kind]
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)


def best_s(call: Callable[[], object], device: str, *, rounds: int = 5, calls: int = 5) -> float:
    """Seconds of one call, in the best of several rounds of calls queued together."""
    call()
    taken = []
    for _ in range(rounds):
        synchronize(device)
        start_s = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        taken.append((time.perf_counter() - start_s) / calls)
    return min(taken)


def synchronize(device: str) -> None:
    """Waits for all that was queued on a GPU; a CPU has nothing queued."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def _multiply_adds(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...] | None]) -> int:
    """Size of the result times the length of each sum."""
    a, b, result = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
    if a is None or b is None or result is None:
        raise VlfError(f"cannot count the work of {node.name} ({node.op_type}): the shapes around it are not known")
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(b[1:])  # weights are (out, in / groups, kernel ...)
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(result) * (a[0] if transposed else a[-1])


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _bytes(shape: tuple[int, ...], data_type: int) -> int:
    return math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
