"""The features of a model: what its classifier reads, as a second output of the graph that gives the logits.

The classifier is its last layer, or the last few where they do nothing but turn one vector of a window into logits (an
MLP): what comes before is worth more to other labels than what it makes of it. Measured with vlf-tiny on people of one
place who were not enrolled: 5 of 5 clips a label, 73.0 % right before the MLP and 71.7 % before its last layer; windows
of other things told from the enrolled ones with an AUROC of 0.97 and 0.91.
They cost nothing: the tensor is computed anyway and only gets a name.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from . import graph as graphs
from .recurrent import FEATURES, states

LOGITS = "logits"
_LAYERS = ("Gemm", "MatMul")
# What may stand between the layers of a classifier: each of one sample alone, and of its constants.
_BETWEEN = ("Add", "Cast", "Identity", "Relu", "Gelu", "Erf", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSwish")


def with_features(onnx_bytes: bytes) -> bytes:
    """The graph with the output "features" (N, D) float32 after its logits; as it was where it has that already, gives
    no logits, or has no last layer that reads one vector for each sample. No other output changes by a bit.

    Raises CompileError for what is no ONNX graph.
    """
    model = graphs.parse(onnx_bytes)
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    shapes = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    tensor = _read_by_classifier(graph, shapes)
    if tensor is None or FEATURES in names:
        return onnx_bytes
    value = shapes[tensor]
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
    """What the manifest says of the tensors of the stages that give features or carry a state: see ``Manifest.roles``.
    stage_graphs: in the order in which the stages run."""
    roles, last = {}, next(reversed(stage_graphs))
    for stage, data in stage_graphs.items():
        inputs, outputs = graphs.tensor_specs(data)
        carried = states(inputs, outputs)
        names = [spec.name for spec in outputs]
        if carried or FEATURES in names:
            given, result = ("window", "logits") if stage == last else ("image", "tokens")
            roles[stage] = {inputs[0].name: given} | {name: f"state:{after}" for name, after in carried.items()}
            roles[stage] |= {names[0]: result} | dict.fromkeys(carried.values(), "state")
            roles[stage] |= {FEATURES: "features"} if FEATURES in names else {}
    return roles


def _read_by_classifier(graph: onnx.GraphProto, shapes: Mapping[str, onnx.ValueInfoProto]) -> str | None:
    """The vector of each sample that the layers before the logits begin with; None if there is none."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    node = makers.get(LOGITS) if LOGITS in {value.name for value in graph.output} else None
    found = None
    while node is not None and node.op_type in (*_LAYERS, *_BETWEEN):
        made = [name for name in node.input if name not in constants]
        if len(made) != 1 or (node.op_type in _LAYERS and node.input[0] != made[0]):
            break
        if node.op_type in _LAYERS and made[0] in makers and _is_vector(shapes.get(made[0])):
            found = made[0]
        node = makers.get(made[0])
    return found


def _is_vector(value: onnx.ValueInfoProto | None) -> bool:
    if value is None:
        return False
    tensor = value.type.tensor_type
    return tensor.elem_type == TensorProto.FLOAT and len(tensor.shape.dim) == 2 and tensor.shape.dim[1].dim_value > 0
