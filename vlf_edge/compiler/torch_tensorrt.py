"""Torch-TensorRT: the PyTorch stages themselves -> raw engines of the same plan, with no ONNX in between.

The other frontend. The ONNX graphs of the plan are made all the same: they are what is checked against, requantised and
run elsewhere. Engines have the names, dtypes and shapes of the plan's typed graphs, so the runtime sees no difference.
Precision is in the modules: fp32 as they are, fp16 as a half-precision copy. INT8 lives in Q/DQ nodes of ONNX graphs
and is not offered here.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg

from .. import backends
from ..backends import cuda
from ..backends.tensorrt_build import default_workspace_bytes
from ..errors import BackendMissing, CompileError, first_line, raise_interrupt
from ..manifest import EngineInfo
from ..models.stage import Stage
from ..software import versions_of
from ..types import TensorSpec
from .engines import TARGETS, Target, for_this_gpu, member_name
from .features import FEATURES
from .fp32_model import Progress

FRONTEND = "torch-tensorrt"
PRECISIONS = ("fp32", "fp16")
_TRACE_BATCH = 2  # 1 would be taken for a fixed axis
_GOES_TOGETHER = (
    "torch_tensorrt 2.14 with torch 2.14 for CUDA and tensorrt 11.1, or torch_tensorrt_rtx 2.14 with torch 2.14 for "
    "CUDA and tensorrt_rtx 1.6"
)
_DEVICE = "cuda:0"
_PACKAGES = ("torch", "torch_tensorrt", "torch_tensorrt_rtx", "tensorrt", "tensorrt_rtx")
_OPTIONS = (
    "arg_inputs",
    "device",
    "workspace_size",
    "arg_input_binding_names",  # new in 2.14: without them the engine's tensors would have names of their own
    "output_binding_names",
)


@dataclass(frozen=True)
class Toolkit:
    """Torch-TensorRT as it is installed here. library: the one its engines run on, "tensorrt" or "tensorrt_rtx"."""

    module: ModuleType
    library: str

    @property
    def target(self) -> Target:
        """What it builds: an engine for this machine's GPU."""
        return Target("rtx" if self.library == "tensorrt_rtx" else "tensorrt", self.library)


def load() -> Toolkit:
    """Imports Torch-TensorRT, or its TensorRT-RTX build, which is a module of the same name.

    Raises BackendMissing in one sentence: what is missing, which versions go together, which are here.
    """
    if why := _why_torch_has_no_gpu():
        raise _missing(why)
    if not backends.installed("torch_tensorrt"):
        raise _missing("torch_tensorrt is not installed")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it lacks; our stdout is for results
            module = importlib.import_module("torch_tensorrt")
            convert = module.dynamo.convert_exported_program_to_serialized_trt_engine
    except Exception as error:  # AssertionError, OSError, plain Exception: whatever it is, its versions do not fit
        raise_interrupt(error)
        raise _missing(f"torch_tensorrt cannot be imported ({first_line(error)})") from error
    unknown = sorted(set(_OPTIONS) - inspect.signature(convert).parameters.keys())
    if unknown:  # its **kwargs would swallow them
        raise _missing(f"torch_tensorrt {module.__version__} does not know {', '.join(unknown)}")
    return Toolkit(module, module.tensorrt_package_name)


def resolve_targets(names: str) -> list[Target]:
    """The one target of this frontend. names: "auto", or what the installed build makes: "tensorrt" or "rtx".

    Raises BackendMissing as ``load`` does, CompileError for another target.
    """
    target = load().target
    if names not in ("auto", target.name):
        raise CompileError(
            f"--frontend {FRONTEND} compiles with {target.library} for this machine's GPU, got --target {names}; "
            f"expected auto or {target.name} (the default --frontend onnx builds for {', '.join(TARGETS)})"
        )
    return [for_this_gpu(target)]


def versions() -> dict[str, str]:
    """Package -> version of what compiles here, for a plan's manifest."""
    return {name: version for name, version in versions_of(*_PACKAGES).items() if version != "unknown"}


def build_engines(
    stages: Sequence[Stage],
    precision: str,
    interfaces: Mapping[str, tuple[Sequence[TensorSpec], Sequence[TensorSpec]]],
    *,
    max_batch: int = 8,
    opt_batch: int = 1,
    workspace_bytes: int | None = None,
    progress: Progress | None = None,
) -> list[tuple[EngineInfo, bytes]]:
    """Compiles every stage for this machine's GPU: [(what it is, raw engine), ...].

    precision: "fp32" or "fp16". interfaces: {stage: (inputs, outputs)} of the plan's typed graphs, which the engines
    take over. max_batch, opt_batch: largest N, and the one to be fastest at. workspace_bytes: bound of the memory
    kernels may use. progress: as in ``build``. Raises BackendMissing as ``load`` does, CompileError naming the stage.
    """
    toolkit, gpu = load(), cuda.probe()
    target, version = for_this_gpu(toolkit.target), backends.load(toolkit.library).__version__
    built = []
    for stage in stages:
        if progress:
            progress("compile engines", len(built), len(stages))
        inputs, outputs = interfaces[stage.name]
        batches = (1, min(opt_batch, max_batch), max_batch)
        bound_bytes = workspace_bytes or default_workspace_bytes(gpu)
        data = compile_stage(toolkit.module, stage, precision, inputs, outputs, batches, bound_bytes, _DEVICE)
        member = member_name(stage.name, target)
        where = (gpu.compute_capability,)
        about = (version, where, gpu.model, max_batch, batches[1])
        built.append((EngineInfo(stage.name, target.name, member, toolkit.library, *about), data))
    if progress:
        progress("compile engines", len(stages), len(stages))
    return built


def compile_stage(
    torch_tensorrt: ModuleType,
    stage: Stage,
    precision: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    batches: tuple[int, int, int],
    workspace_bytes: int | None,
    device: str,
) -> bytes:
    """One raw engine. inputs, outputs: its interface. batches: smallest, best and largest N. Raises CompileError."""
    try:
        program = trace(stage, precision, outputs, batches[-1], device)
        names = [spec.name for spec in outputs]
        engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            arg_inputs=tuple(_profile(torch_tensorrt, spec, batches) for spec in inputs),
            device=torch.device(device),
            workspace_size=workspace_bytes or 0,  # 0: TensorRT's own default
            arg_input_binding_names=tuple(spec.name for spec in inputs),
            output_binding_names=names[0] if len(names) == 1 else tuple(names),  # shaped as the module's own result
        )
    except Exception as error:  # of PyTorch's tracer, of Torch-TensorRT's converters or of TensorRT's builder
        raise CompileError(
            f"torch_tensorrt {torch_tensorrt.__version__} cannot compile stage {stage.name!r} in {precision}: "
            f"{first_line(error)}; the default --frontend onnx may"
        ) from error
    return bytes(engine)


def trace(
    stage: Stage, precision: str, outputs: Sequence[TensorSpec], max_batch: int, device: str = "cpu"
) -> torch.export.ExportedProgram:
    """The stage in evaluation mode as an exported program for N = 1 to ``max_batch``, on ``device``.

    precision: "fp32", or "fp16": every float32 tensor is then float16, inputs and outputs too, but for those
    ``outputs`` that are float32: what the plan's typed graphs are. The stage's own module is left as it is.
    """
    module = copy.deepcopy(stage.module).eval().to(device)
    program = _export(module, stage.inputs, max_batch, device)
    width = next((int(spec.shape[1]) for spec in outputs if spec.name == FEATURES), 0)
    if width:
        module = _WithFeatures(module, _classifier_of(module, program.module(check_guards=False)), width)
        program = _export(module, stage.inputs, max_batch, device)
    if precision == "fp32":
        return program
    halved = halve(program.module(check_guards=False), [getattr(torch, spec.dtype) for spec in outputs])
    return _export(halved, [_half_spec(spec) for spec in stage.inputs], max_batch, device)


def halve(module: fx.GraphModule, outputs: Iterable[torch.dtype]) -> fx.GraphModule:
    """Makes a traced module compute in float16, in place: its weights, and every float32 that its operators name.

    outputs: dtypes of the results. Integers, such as a uint8 image, stay what they are.
    """
    module.half()
    graph = module.graph
    for node in graph.nodes:
        if node.op == "call_function":
            node.args = map_aggregate(node.args, _half_if_float)
            node.kwargs = map_aggregate(node.kwargs, _half_if_float)
    (result,) = graph.find_nodes(op="output")
    wanted = iter(outputs)

    def as_wanted(value: fx.Node) -> fx.Node:
        dtype = next(wanted)
        with graph.inserting_before(result):
            return value if dtype == torch.float16 else graph.call_function(torch.ops.aten.to.dtype, (value, dtype))

    result.args = map_arg(result.args, as_wanted)
    module.recompile()
    return module


# What may stand between the layers of a classifier, and those themselves.
_CLASSIFIER = {
    getattr(torch.ops.aten, name).default
    for name in ("linear", "relu", "dropout", "gelu", "sigmoid", "tanh", "hardswish")
}


class _WithFeatures(torch.nn.Module):
    """A clip stage that gives (logits, features): what ``features.with_features`` is to its ONNX graph.

    width: of the features; where it is more than what the classifier reads, the rest is how much tokens change."""

    def __init__(self, module: torch.nn.Module, classifier: torch.nn.Module, width: int):
        super().__init__()
        self.module, self._width, self._read = module, width, []
        classifier.register_forward_pre_hook(lambda _, inputs: self._read.append(inputs[0]))

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(window)
        read = self._read.pop()
        if read.shape[1] == self._width:
            return logits, read
        change = (window[:, 1:] - window[:, :-1]).abs().amax(dim=1)  # (N, S, D), or (N, D)
        return logits, torch.cat([read, change.mean(dim=1) if change.ndim == 3 else change], dim=1)


def _classifier_of(module: torch.nn.Module, traced: fx.GraphModule) -> torch.nn.Module:
    """The first of the layers right before the logits that read one vector for each sample. traced: the module."""
    (result,) = traced.graph.find_nodes(op="output")
    node, weight = result.args[0][0], None
    while node.op == "call_function" and node.target in _CLASSIFIER:
        if node.target is torch.ops.aten.linear.default and node.args[0].meta["val"].ndim == 2:
            weight = node.args[1].target
        node = node.args[0]
    return module.get_submodule(weight.rpartition(".")[0])


def _half_if_float(value: Any) -> Any:
    return torch.float16 if value is torch.float32 else value


def _half_spec(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, "float16", spec.shape) if spec.dtype == "float32" else spec


def _export(
    module: torch.nn.Module, inputs: Sequence[TensorSpec], max_batch: int, device: str
) -> torch.export.ExportedProgram:
    examples = tuple(_example(spec, min(_TRACE_BATCH, max_batch), device) for spec in inputs)
    axes = {axis for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    # One size only is no dynamic axis.
    dims = {axis: torch.export.Dim(axis, min=1, max=max_batch) for axis in axes if max_batch > 1}
    dynamic = tuple({i: dims[axis] for i, axis in enumerate(spec.shape) if axis in dims} for spec in inputs)
    return torch.export.export(module, examples, dynamic_shapes=dynamic, strict=False)


def _example(spec: TensorSpec, batch: int, device: str) -> Tensor:
    return torch.zeros(spec.sized(batch), dtype=getattr(torch, spec.dtype), device=device)


def _profile(torch_tensorrt: ModuleType, spec: TensorSpec, batches: tuple[int, int, int]) -> Any:
    smallest, best, largest = (spec.sized(batch) for batch in batches)
    dtype = getattr(torch, spec.dtype)
    if smallest == largest:
        return torch_tensorrt.Input(shape=largest, dtype=dtype)
    return torch_tensorrt.Input(min_shape=smallest, opt_shape=best, max_shape=largest, dtype=dtype)


def _why_torch_has_no_gpu() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "" if torch.cuda.is_available() else "PyTorch sees no GPU"


def _missing(why: str) -> BackendMissing:
    here = ", ".join(f"{name} {version}" for name, version in versions().items())
    return BackendMissing(
        f"--frontend {FRONTEND} cannot be used here: {why}; it needs an NVIDIA GPU and versions that go together "
        f"({_GOES_TOGETHER}), found {here}; leave --frontend out to build the same engines from ONNX"
    )
