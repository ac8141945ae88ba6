"""The features of a model: what its last layer reads, as a second output of the graph that gives the logits.

They cost nothing: the tensor is computed anyway and only gets a name. Whatever is taught later is taught on them.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from . import graph as graphs

FEATURES, LOGITS = "features", "logits"
_LAYERS = ("Gemm", "MatMul")
_AFTER = ("Add", "Cast", "Identity")  # what may come between the last layer and the logits


def with_features(onnx_bytes: bytes) -> bytes:
    """The graph with the output "features" (N, D) float32 after its logits; as it was where it has that already, gives
    no logits, or has no last layer that reads one vector for each sample. No other output changes by a bit.

    Raises CompileError for what is no ONNX graph.
    """
    model = graphs.parse(onnx_bytes)
    graph = model.graph
    tensor = _read_by_last_layer(graph)
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    if tensor is None or FEATURES in names:
        return onnx_bytes
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    value = next((value for value in inferred if value.name == tensor), None)
    if value is None or not _is_vector(value):
        return onnx_bytes
    for node in graph.node:
        graphs.replace(node.input, [FEATURES if name == tensor else name for name in node.input])
        graphs.replace(node.output, [FEATURES if name == tensor else name for name in node.output])
    graphs.replace(graph.value_info, [value for value in graph.value_info if value.name != tensor])
    batch = next(value for value in graph.output if value.name == LOGITS).type.tensor_type.shape.dim[0]
    size = value.type.tensor_type.shape.dim[1].dim_value
    graph.output.append(
        helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [batch.dim_param or batch.dim_value, size])
    )
    return graphs.save(model)


def roles_of(stage_graphs: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """What the manifest says of the tensors of the stages that give features: see ``Manifest.roles``."""
    roles = {}
    for stage, data in stage_graphs.items():
        inputs, outputs = graphs.tensor_specs(data)
        if FEATURES in {spec.name for spec in outputs}:
            roles[stage] = {inputs[0].name: "window", LOGITS: "logits", FEATURES: "features"}
    return roles


def _read_by_last_layer(graph: onnx.GraphProto) -> str | None:
    """The tensor that the layer right before the logits reads; None if there is no such layer."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    node = makers.get(LOGITS) if LOGITS in {value.name for value in graph.output} else None
    while node is not None and node.op_type in _AFTER:
        made = [name for name in node.input if name not in constants]
        node = makers.get(made[0]) if len(made) == 1 else None
    if node is None or node.op_type not in _LAYERS or node.input[1] not in constants:
        return None
    return node.input[0] if node.input[0] in makers else None


def _is_vector(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.elem_type == TensorProto.FLOAT and len(tensor.shape.dim) == 2 and tensor.shape.dim[1].dim_value > 0
