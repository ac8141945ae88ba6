"""The features of a model, as a second output of the graph that gives the logits: what its classifier reads and, where
frames are tokens, how much these change.

The classifier is its last layer, or the last few where they do nothing but turn one vector of a window into logits (an
MLP): what comes before is worth more to other labels than what it makes of it. It costs nothing: the tensor is computed
anyway. What a model was not trained to tell may have been lost on the way there, but it still moves the tokens: so the
largest change of each channel between two neighbours in time comes beside it, as the mean over the tokens of a frame,
which takes a pass or two over the window. docs/actions.md has what both are worth, measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import graph as graphs
from .recurrent import FEATURES, states

LOGITS = "logits"
READ = "features/read"  # what the classifier reads, where features are more than that
# What a head remembers of clips grows with their square: of these it takes half of what a head may.
MOST_FEATURES = 512
_AXES_AS_INPUTS = 18  # the opset from which ReduceMax takes them so
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
    read = _read_by_classifier(graph, shapes)
    if read is None or FEATURES in names:
        return onnx_bytes
    size = shapes[read].type.tensor_type.shape.dim[1].dim_value
    changing = _tokens_of(model, size)
    _rename(graph, read, FEATURES if changing is None else READ)
    if changing is not None:
        _add_change(graph, changing)
        size += _sizes(changing)[-1]
    batch = next(value for value in graph.output if value.name == LOGITS).type.tensor_type.shape.dim[0]
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


def _tokens_of(model: onnx.ModelProto, size: int) -> onnx.ValueInfoProto | None:
    """The window of tokens that the graph takes, (N, K, D) or (N, K, S, D) float32 of two frames or more; None if it
    takes none, or if features would be more than MOST_FEATURES. size: of what the classifier reads."""
    constants = graphs.initializers(model)
    given = [value for value in model.graph.input if value.name not in constants]
    if len(given) != 1 or given[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    sizes = _sizes(given[0])
    fits = len(sizes) in (3, 4) and sizes[1] > 1 and 0 < sizes[-1] <= MOST_FEATURES - size
    return given[0] if fits and graphs.opset_of(model) >= _AXES_AS_INPUTS else None


def _add_change(graph: onnx.GraphProto, tokens: onnx.ValueInfoProto) -> None:
    """FEATURES: READ, and beside it the mean over a frame's tokens of max over k of |tokens[k + 1] - tokens[k]|."""
    frames, over_tokens = _sizes(tokens)[1], len(_sizes(tokens)) == 4
    numbers = {"begin": 0, "second": 1, "last": frames - 1, "end": frames, "time": 1}
    graph.initializer.extend(
        numpy_helper.from_array(np.array([number], np.int64), f"features/{name}") for name, number in numbers.items()
    )
    steps = [
        ("Slice", (tokens.name, "second", "end", "time"), "later"),
        ("Slice", (tokens.name, "begin", "last", "time"), "earlier"),
        ("Sub", ("later", "earlier"), "differences"),
        ("Abs", ("differences",), "changes"),
        ("ReduceMax", ("changes", "time"), "largest"),
        *([("ReduceMean", ("largest", "time"), "mean")] if over_tokens else []),
        ("Concat", (READ, "mean" if over_tokens else "largest"), FEATURES),
    ]
    for operator, inputs, output in steps:
        inputs = [name if name in (tokens.name, READ) else f"features/{name}" for name in inputs]
        output = output if output == FEATURES else f"features/{output}"
        options = {"axis": 1} if operator == "Concat" else {"keepdims": 0} if operator.startswith("Reduce") else {}
        graph.node.append(helper.make_node(operator, inputs, [output], name=output, **options))


def _rename(graph: onnx.GraphProto, tensor: str, name: str) -> None:
    """Gives a tensor between nodes another name."""
    for node in graph.node:
        graphs.replace(node.input, [name if one == tensor else one for one in node.input])
        graphs.replace(node.output, [name if one == tensor else one for one in node.output])
    graphs.replace(graph.value_info, [value for value in graph.value_info if value.name != tensor])


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Of its axes; 0: not fixed."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
