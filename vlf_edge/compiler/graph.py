"""ONNX graphs as bytes: read into one normal form, written the same way every time, run by ONNX Runtime.

The normal form is what the rest of the compiler relies on: every node has a name of its own, every constant is an
initializer, and nothing is written down twice (no cached shapes and types, which go stale when a graph is rewritten).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ..errors import CompileError, ShapeError
from ..types import TensorSpec

# float16 scales of QuantizeLinear came with opset 19; TensorRT 10.3 (JetPack 6) parses up to 20.
OPSETS = (19, 20)
_STANDARD = ("", "ai.onnx")  # two names of one domain
# Operators that only hand a constant on or give it another shape: exporters leave them between a weight and its layer.
_FOLDABLE = {"Constant", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"}


def parse(onnx_bytes: bytes) -> onnx.ModelProto:
    """The model as it was written. Raises CompileError if the bytes are no ONNX model."""
    try:
        model = onnx.load_model_from_string(onnx_bytes)
    except Exception as error:  # protobuf has several kinds of parse error, none of them public
        raise CompileError(f"these {len(onnx_bytes)} bytes are not an ONNX model: {error}") from None
    if not model.graph.output:
        raise CompileError(f"these {len(onnx_bytes)} bytes are not an ONNX model: there is no graph with an output")
    return model


def load(onnx_bytes: bytes) -> onnx.ModelProto:
    """The model in normal form (see the module).

    Raises CompileError for what is no ONNX model, has branches, loops or operators that are not ONNX's own, or an opset
    outside ``OPSETS``.
    """
    model = parse(onnx_bytes)
    opset = opset_of(model)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise CompileError(f"the graph has ONNX opset {opset}; expected {OPSETS[0]} to {OPSETS[1]}: export it again")
    for node in model.graph.node:
        if node.domain not in _STANDARD or not onnx.defs.has(node.op_type, opset):
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise CompileError(f"node {node.name!r} ({operator}) is no standard operator of opset {opset}")
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise CompileError(f"node {node.name!r} is a branch or loop ({node.op_type}); export a plain graph")
    _name_nodes(model.graph)
    _fold_constants(model)
    _strip(model)
    return model


def save(model: onnx.ModelProto) -> bytes:
    """Drops unused initializers, checks the model with full type inference and serialises it, always to equal bytes.

    Raises CompileError with the checker's message.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        replace(graph.initializer, kept)
    data = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompileError(f"the rewritten graph is not valid ONNX: {str(error).strip()}") from None
    return data


def tensor_specs(onnx_bytes: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) of a graph, in graph order. Dynamic axes appear by name, unnamed ones as "?"."""
    graph = parse(onnx_bytes).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_spec(value) for value in graph.input if value.name not in constants)
    return inputs, tuple(_spec(value) for value in graph.output)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the model uses; 0 if it names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The graph's constants by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def replace(repeated, items) -> None:
    """Puts ``items`` in the place of everything a protobuf list holds."""
    items = list(items)  # they may live in the list about to be cleared
    del repeated[:]
    repeated.extend(items)


# Rounds float biases to int32 in units of input scale times weight scale: in float16 graphs that product is too coarse.
_NOT_AS_WRITTEN = ["WeightBiasQuantization"]


class Session:
    """An ONNX graph on the CPU, exactly as it is written.

    Only the basic optimisations are on: the extended ones swap Q/DQ for integer kernels whose rounding depends on the
    processor, and what is measured here is the graph.
    """

    def __init__(self, onnx_bytes: bytes):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        # Idle threads that spin slow down whatever else runs, and short runs most of all.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                onnx_bytes, options, providers=["CPUExecutionProvider"], disabled_optimizers=_NOT_AS_WRITTEN
            )
        except Exception as error:  # ONNX Runtime raises classes of its own for each status code
            raise CompileError(f"ONNX Runtime refuses the graph: {error}") from None
        self._half = {value.name: value.type == "tensor(float16)" for value in self._session.get_inputs()}
        self.inputs = tuple(self._half)
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Floats are given to the graph as float16 where it takes them so.

        Raises ShapeError if an input is missing.
        """
        if not set(self.inputs) <= set(feed):
            raise ShapeError(f"the graph reads {', '.join(self.inputs)}; got {', '.join(feed) or 'nothing'}")
        feed = {name: feed[name].astype(np.float16) if half else feed[name] for name, half in self._half.items()}
        return dict(zip(self.outputs, self._session.run(None, feed)))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives a name to nodes that have none or one that is taken; the same graph always gets the same names."""
    exported = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in exported or name in seen:
                name += "_"
            node.name = name
        seen.add(node.name)


def _fold_constants(model: onnx.ModelProto) -> None:
    graph = model.graph
    constants, outputs = initializers(model), {output.name for output in graph.output}
    kept = []
    for node in graph.node:
        constant = node.op_type in _FOLDABLE and all(name in constants for name in node.input)
        if not constant or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor = numpy_helper.from_array(_evaluate(model, node, constants), node.output[0])
        graph.initializer.append(tensor)
        constants[tensor.name] = tensor
    if len(kept) < len(graph.node):
        replace(graph.node, kept)


def _evaluate(model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> np.ndarray:
    output = onnx.ValueInfoProto(name=node.output[0])
    inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input)]
    alone = onnx.helper.make_model(
        onnx.helper.make_graph([node], "constant", inputs, [output]), opset_imports=list(model.opset_import)
    )
    feed = {name: numpy_helper.to_array(constants[name]) for name in node.input}
    return np.ascontiguousarray(ReferenceEvaluator(alone).run(None, feed)[0])


def _strip(model: onnx.ModelProto) -> None:
    """Removes cached shapes and the exporter's notes, which name source files of the machine it ran on."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)
