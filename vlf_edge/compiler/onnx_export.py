"""Stage -> ONNX: one float32 graph per stage, fit for TensorRT, OpenVINO and ONNX Runtime alike.

What every graph holds to, checked before it is handed out:
- opset 20, the newest that TensorRT 10.3 reads; standard operators only; the batch axis N is the one dynamic axis;
- a uint8 input goes straight into a Cast, since TensorRT takes uint8 no other way;
- LayerNormalization is one node: taken apart, it overflows in float16;
- weights are initializers, read directly by Conv, Gemm and MatMul, where the quantiser looks for them;
- the same stage gives the same bytes, in any process and any folder.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import BOOL, FLOAT
from onnxscript import opset20 as op
from torch import Tensor, nn

from ..errors import ExportError, first_line
from ..models.stage import Stage, evaluating
from ..types import TensorSpec

OPSET = 20
_IR_VERSION = 10  # of ONNX 1.16, which TensorRT 10.3 reads
_TRACE_BATCH = 2  # 1 would be taken for a fixed axis
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules a node comes from
_FLOAT32_ONLY = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}


def export_stage(stage: Stage) -> bytes:
    """The stage as a serialised ONNX model, weights included.

    Inputs and outputs have the names, dtypes and shapes of ``stage``; "N" is dynamic. The module is traced in
    evaluation mode and gets its own modes back. Raises ExportError if the exporter fails or the graph is not as above.
    """
    with evaluating(stage.module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = _trace(stage)
            model = _convert(stage, traced)
        except Exception as error:
            raise ExportError(f"stage {stage.name!r} could not be exported to ONNX: {_root_cause(error)}") from error
    _name_by_module(model.graph)
    proto = _anonymous(stage, model)
    _check(stage, proto, layer_norms=_count_layer_norms(traced))
    return proto.SerializeToString(deterministic=True)


@torch.no_grad()
def torch_outputs(stage: Stage, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the stage itself answers in evaluation mode: the reference of every exported graph.

    inputs: arrays in the order, dtypes and shapes of ``stage.inputs``. Returns arrays as in ``stage.outputs``.
    """
    device = _device(stage.module)
    with evaluating(stage.module):
        outputs = stage.module(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in inputs))
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    return tuple(output.cpu().numpy() for output in outputs)


def _trace(stage: Stage) -> torch.export.ExportedProgram:
    device = _device(stage.module)
    examples = tuple(_example(spec, device) for spec in stage.inputs)
    return torch.export.export(stage.module, examples, dynamic_shapes=_dynamic_axes(stage), strict=False)


def _convert(stage: Stage, traced: torch.export.ExportedProgram) -> onnx_ir.Model:
    program = torch.onnx.export(
        traced,
        custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
        dynamo=True,
        opset_version=OPSET,
        input_names=[spec.name for spec in stage.inputs],
        output_names=[spec.name for spec in stage.outputs],
        dynamic_shapes=_dynamic_axes(stage),  # for their names alone; the trace knows them already
        external_data=False,
        optimize=True,  # folds constants, BatchNorm into Conv, and drops what is unused
        verbose=False,
    )
    return program.model


def _attention(
    q: FLOAT,
    k: FLOAT,
    v: FLOAT,
    attn_mask: FLOAT | BOOL | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> FLOAT:
    """scaled_dot_product_attention as the operators every backend fuses. The exporter's own version rearranges
    k through a subgraph of run-time shapes. q is scaled first: float16 scores then stay small."""
    boolean = attn_mask is not None and not attn_mask.dtype.is_floating_point()
    if is_causal or enable_gqa or dropout_p or boolean:
        raise NotImplementedError("attention with a causal or boolean mask, grouped heads or dropout")
    rank, size = len(q.shape), q.shape[-1]
    q = op.Mul(q, op.Constant(value_float=float(size**-0.5 if scale is None else scale)))
    scores = op.MatMul(q, op.Transpose(k, perm=[*range(rank - 2), rank - 1, rank - 2]))
    return op.MatMul(op.Softmax(scores if attn_mask is None else op.Add(scores, attn_mask), axis=-1), v)


def _name_by_module(graph: onnx_ir.Graph) -> None:
    """Names nodes and tensors after the module they come from, such as "h.layers.0.qkv/MatMul": reports of the
    quantiser and of TensorRT can then be read, and no counter of the exporter remains in them."""
    used: Counter[str] = Counter()
    kept = {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    for node in graph:
        module = _module_of(node)
        base = f"{module}/{node.op_type}" if module else node.op_type
        node.name = f"{base}_{used[base]}" if used[base] else base
        used[base] += 1
        for i, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{i}"
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        # Linear weights were transposed into new, nameless constants.
        if weight is not None and weight.is_initializer() and f"{module}.weight" not in kept:
            weight.name = f"{module}.weight"
            kept.add(weight.name)


def _module_of(node: onnx_ir.Node) -> str:
    """Dotted path of the module a node comes from, "" for the stage itself."""
    if node.op_type == "Conv":  # by its weight: once folded, its own notes are the BatchNorm's
        return node.inputs[1].name.rpartition(".")[0]
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    if len(scopes) > 1:
        return scopes[-2]
    # The optimiser's own nodes carry no note: they belong to whatever feeds them.
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return source.name.rpartition("/")[0] if source is not None else ""


def _anonymous(stage: Stage, model: onnx_ir.Model) -> onnx.ModelProto:
    """The model without the exporter's notes: they hold stack traces, folders of this machine and versions."""
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        value.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.producer_name, model.producer_version, model.ir_version = "vlf_edge", None, _IR_VERSION
    model.graph.name = stage.name
    return onnx_ir.to_proto(model)


def _check(stage: Stage, model: onnx.ModelProto, layer_norms: int) -> None:
    """Raises ExportError for the first promise of this file that the graph does not keep."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"stage {stage.name!r} gave an invalid ONNX graph: {_root_cause(error)}") from error
    nodes = model.graph.node
    problems = [
        *_interface_problems(stage, model.graph),
        *_state_problems(stage),
        *(f"{node.name} is {node.domain}.{node.op_type}, not a standard operator" for node in nodes if node.domain),
        *(f"{node.name} is a {node.op_type} with a graph inside" for node in nodes if _has_subgraph(node)),
        *(f"function {function.name} was not inlined" for function in model.functions),
        *_uint8_problems(model.graph),
        *_float_problems(model.graph),
    ]
    found = sum(node.op_type == "LayerNormalization" for node in nodes)
    if found != layer_norms:
        problems.append(f"{layer_norms} LayerNorm modules became {found} LayerNormalization nodes")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ExportError(f"stage {stage.name!r} is not fit for deployment: {problems[0]}{more}")


def _interface_problems(stage: Stage, graph: onnx.GraphProto) -> Iterator[str]:
    for side, values, specs in (("input", graph.input, stage.inputs), ("output", graph.output, stage.outputs)):
        found = tuple(_spec(value) for value in values)
        if found != specs:
            yield f"{side}s are {'; '.join(map(str, found))}, expected {'; '.join(map(str, specs))}"


def _state_problems(stage: Stage) -> Iterator[str]:
    inputs, outputs = ([spec.name for spec in specs] for specs in (stage.inputs, stage.outputs))
    if list(stage.state.items()) != list(zip(inputs[1:], outputs[1:])):
        yield f"its states are {dict(stage.state)}, expected every input but the first, each the output of its place"


def _uint8_problems(graph: onnx.GraphProto) -> Iterator[str]:
    images = {value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in graph.node:
        if node.op_type != "Cast" and images & set(node.input):
            yield f"{node.name} reads a uint8 input, where only a Cast may; call .float() on the image first"


def _float_problems(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        if tensor.data_type in _FLOAT32_ONLY:
            yield f"{tensor.name} is {onnx.TensorProto.DataType.Name(tensor.data_type).lower()}, expected float32"
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOAT32_ONLY:
                yield f"{node.name} casts to {onnx.TensorProto.DataType.Name(attribute.i).lower()}"


def _has_subgraph(node: onnx.NodeProto) -> bool:
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attribute)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))


def _count_layer_norms(traced: torch.export.ExportedProgram) -> int:
    targets = (torch.ops.aten.layer_norm.default, torch.ops.aten.native_layer_norm.default)
    return sum(node.target in targets for node in traced.graph.nodes)


def _dynamic_axes(stage: Stage) -> tuple[Any, ...]:
    """For each input: position -> axis, of the axes named by a string; those that the module takes as ``*rest`` in a
    tuple of their own."""
    axes = {axis: torch.export.Dim(axis) for spec in stage.inputs for axis in spec.shape if isinstance(axis, str)}
    given = tuple({i: axes[axis] for i, axis in enumerate(spec.shape) if axis in axes} for spec in stage.inputs)
    taken = inspect.signature(stage.module.forward).parameters.values()
    named = sum(parameter.kind is not inspect.Parameter.VAR_POSITIONAL for parameter in taken)
    return given if named == len(taken) else (*given[:named], given[named:])


def _example(spec: TensorSpec, device: torch.device) -> Tensor:
    return torch.zeros(spec.sized(_TRACE_BATCH), dtype=getattr(torch, spec.dtype), device=device)


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _root_cause(error: BaseException) -> str:
    """The first line of the exception that started it; exporters wrap theirs in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
