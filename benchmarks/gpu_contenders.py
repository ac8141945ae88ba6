"""The ways to run the two stages of a plan on one device, all from device tensor to device tensor on one stream.

It is PyTorch's current one, inside ``own_stream``: on CUDA's default stream TensorRT would add waits of its own, and
ONNX Runtime would take it for none and make another. Everything takes a device: tests run what needs no GPU on "cpu".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlf_edge import Plan
from vlf_edge.backends import load
from vlf_edge.backends.tensorrt import collector, start
from vlf_edge.compiler.engines import build_engines, resolve_targets
from vlf_edge.compiler.graph import tensor_specs
from vlf_edge.compiler.torch_tensorrt import trace
from vlf_edge.errors import BackendMissing, PlanMismatch, VlfError
from vlf_edge.models import create_model, sizes_from_json
from vlf_edge.models.stage import Stage
from vlf_edge.types import TensorSpec

Run = Callable[[Tensor], Tensor]
LARGE = 16  # batches from here on run on engines that were built to be fastest at the largest


@dataclass(frozen=True)
class Contender:
    """open: (stage name, batch) -> a function of a device tensor of that batch; raises VlfError where it cannot be.
    graphed: whether its calls are recorded and replayed as one CUDA graph. same_weights: as the plan, so that it
    decides alike."""

    name: str
    precision: str
    open: Callable[[str, int], Run]
    graphed: bool = False
    same_weights: bool = True


class Programs:
    """The stages of a model in PyTorch, each traced once for a precision, for every batch from 1 to the ``largest``:
    tracing takes seconds, and there are many batches and ways to run them. same_weights: as ``Contender``."""

    def __init__(self, stages: Mapping[str, Stage], largest: int, device: str, same_weights: bool = True):
        self.same_weights = same_weights
        self._stages, self._largest, self._device = stages, max(largest, 2), device
        self._traced: dict[tuple[str, str], torch.export.ExportedProgram] = {}

    def module(self, stage: str, plan: Plan) -> torch.nn.Module:
        """A new module, with the dtypes of the plan's typed graphs, on weights that all of this stage share."""
        key = (stage, plan.manifest.precision)
        if key not in self._traced:
            outputs = plan.manifest.graph(stage, "typed").outputs
            self._traced[key] = trace(self._stages[stage], key[1], outputs, self._largest, self._device)
        return self._traced[key].module(check_guards=False)


def programs_of(plan: Plan, largest: int, device: str) -> Programs:
    """The plan's model in PyTorch: with the plan's own weights if those are random ones, which a seed gives again."""
    manifest = plan.manifest
    seed = manifest.weights.get("seed") if manifest.random_weights else None
    if seed is None:
        model = sizes_from_json(manifest.model).build()
    else:
        model = create_model(manifest.model["name"], len(manifest.labels), seed=seed)
    return Programs({stage.name: stage for stage in model.stages()}, largest, device, seed is not None)


def torch_contender(
    name: str, programs: Programs, plan: Plan, *, compiled: str = "", graphed: bool = False
) -> Contender:
    """PyTorch in the precision of a plan, fp32 or fp16, with the dtypes of its typed graphs between the stages.
    compiled: a mode of torch.compile, "" for eager."""

    def open_stage(stage: str, batch: int) -> Run:
        module = programs.module(stage, plan)
        if compiled:
            torch._dynamo.reset()
            module = torch.compile(module, mode=compiled, dynamic=False)
        return torch.inference_mode()(lambda given: module(given))

    return Contender(name, plan.manifest.precision, open_stage, graphed, programs.same_weights)


def onnxruntime_contender(plan: Plan, device: str) -> Contender:
    """ONNX Runtime with the typed graphs, bound to device memory, on PyTorch's stream."""
    import onnxruntime as ort

    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        raise BackendMissing(f"onnxruntime {ort.__version__} has no {provider}: pip install onnxruntime-gpu")
    kind = torch.device(device).type

    def open_stage(stage: str, batch: int) -> Run:
        data = plan.graph(stage, "typed")
        (given,), (result,) = tensor_specs(data)
        options = {} if kind == "cpu" else {"user_compute_stream": str(stream_handle(device))}
        session = ort.InferenceSession(data, providers=[(provider, options)])
        if provider not in session.get_providers():
            raise BackendMissing(f"onnxruntime {ort.__version__} could not open {provider} and fell back to the CPU")
        out = empty(result, batch, device)
        queued = ort.RunOptions()  # all contenders only queue their work, whoever times them waits
        queued.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def run(images: Tensor) -> Tensor:
            images = images.contiguous()
            binding = session.io_binding()
            binding.bind_input(given.name, kind, 0, np.dtype(given.dtype), tuple(images.shape), images.data_ptr())
            binding.bind_output(result.name, kind, 0, np.dtype(result.dtype), tuple(out.shape), out.data_ptr())
            session.run_with_iobinding(binding, queued)
            return out

        return run

    return Contender(f"onnxruntime {'CPU' if kind == 'cpu' else 'CUDA'}", plan.manifest.precision, open_stage)


def tensorrt_contender(
    plan: Plan, library: str, largest: int, engines: dict[tuple[str, ...], Any], *, graphed: bool
) -> Contender:
    """Engines of "tensorrt" or "tensorrt_rtx", built here: for batches below LARGE to be fastest at 1, for others at
    ``largest``. engines: those that are built already. Raises BackendMissing if the library or a GPU is not here."""
    targets = resolve_targets("rtx" if library == "tensorrt_rtx" else library)
    trt, precision = load(library), plan.manifest.precision

    def engine(stage: str, batch: int) -> Any:
        top = largest if batch >= LARGE else min(LARGE - 1, largest)
        key = (library, precision, stage, str(top))
        if key not in engines:
            typed, best = {stage: plan.graph(stage, "typed")}, largest if batch >= LARGE else 1
            ((_, data),) = build_engines(typed, targets, max_batch=top, opt_batch=best)
            runtime = start(trt, trt.Runtime)
            opened = runtime.deserialize_cuda_engine(data)
            if opened is None:
                words = collector(trt).drain()
                raise PlanMismatch(f"{library} {trt.__version__} refuses its own engine on this GPU: {words}")
            engines[key] = opened
        return engines[key]

    def open_stage(stage: str, batch: int) -> Run:
        opened = engine(stage, batch)
        context = _context(trt, opened, engines)
        if context is None:
            raise PlanMismatch(f"{library} {trt.__version__} gives no context on this GPU: {collector(trt).drain()}")
        graph = plan.manifest.graph(stage, "typed")
        (given,), (result,) = graph.inputs, graph.outputs
        out = empty(result, batch, "cuda")
        if not context.set_input_shape(given.name, tuple(_sized(given, batch))):
            raise PlanMismatch(f"{library} refuses batch {batch} of {given}")
        context.set_tensor_address(result.name, out.data_ptr())
        capturable = getattr(context, "is_stream_capturable", lambda handle: True)
        if graphed and not capturable(stream_handle("cuda")):
            raise VlfError(f"{library} {trt.__version__} says that batch {batch} cannot be recorded as a CUDA graph")

        def run(images: Tensor) -> Tensor:
            context.set_tensor_address(given.name, images.data_ptr())
            if not context.execute_async_v3(stream_handle("cuda")):
                raise VlfError(f"{library} could not run: {collector(trt).drain()}")
            return out

        return run

    return Contender(f"{library}{' + CUDA graph' if graphed else ''}", precision, open_stage, graphed)


def _context(trt: ModuleType, engine: Any, engines: dict[tuple[str, ...], Any]) -> Any:
    """An execution context as the runtime makes them, but no CUDA graph inside: those are PyTorch's here, for all.

    TensorRT-RTX by default runs general kernels until those for the shape are compiled, which a graph would keep."""
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    engines[("config", str(len(engines)))] = config  # it must not end before its context
    return engine.create_execution_context(config)


class Decision:
    """The steady state of N streams: one new image each, its tokens into the window of K, the window to logits.

    frame, clip: as ``Contender.open`` gives them. A call takes images (N, H, W, 3) uint8 on the device and gives logits
    (N, C); before K calls the window is filled up with zeros.
    """

    def __init__(self, frame: Run, clip: Run, window: TensorSpec, batch: int, device: str):
        self._frame, self._clip, self._window = frame, clip, empty(window, batch, device).zero_()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        tokens = self._frame(images)
        self._window.copy_(torch.cat([self._window[:, 1:], tokens[:, None]], dim=1))
        return self._clip(self._window)


def graphed(run: Run, example: Tensor) -> Run:
    """The same as one CUDA graph: recorded once, replayed for every call, its input copied into fixed memory.
    Raises VlfError if something in it cannot be recorded."""
    fixed, side = example.clone(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are chosen and memory is taken before anything is recorded
        for _ in range(3):
            run(fixed)
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    try:
        # What other threads do meanwhile, such as allocating, is not this graph's business.
        with torch.cuda.graph(recorded, capture_error_mode="thread_local"):
            out = run(fixed)
    except RuntimeError as error:
        raise VlfError(f"cannot be recorded as a CUDA graph: {str(error).splitlines()[0]}") from error

    def replay(images: Tensor) -> Tensor:
        fixed.copy_(images)
        recorded.replay()
        return out

    return replay


def own_stream(device: str) -> AbstractContextManager[Any]:
    """Inside, PyTorch's current stream is one made for this, and not CUDA's default one."""
    return nullcontext() if device == "cpu" else torch.cuda.stream(torch.cuda.Stream(device))


def stream_handle(device: str) -> int:
    """PyTorch's current stream as other libraries take it. Raises VlfError if it is CUDA's default one, which is 0."""
    handle = torch.cuda.current_stream(device).cuda_stream
    if handle == 0:
        raise VlfError("this runs on CUDA's default stream: wrap it in own_stream()")
    return handle


def empty(spec: TensorSpec, batch: int, device: str) -> Tensor:
    """A tensor for N = ``batch`` items of a spec."""
    return torch.empty(_sized(spec, batch), dtype=getattr(torch, spec.dtype), device=device)


def _sized(spec: TensorSpec, batch: int) -> list[int]:
    return [batch if isinstance(size, str) else size for size in spec.shape]
