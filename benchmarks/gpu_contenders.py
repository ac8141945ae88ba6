"""The ways to run the two stages of a plan on one device, all from device tensor to device tensor on PyTorch's stream.

Everything takes a device: tests run what needs no GPU on "cpu".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlf_edge import Plan
from vlf_edge.backends import load
from vlf_edge.backends.tensorrt import collector
from vlf_edge.compiler.engines import build_engines, resolve_targets
from vlf_edge.compiler.graph import tensor_specs
from vlf_edge.compiler.torch_tensorrt import trace
from vlf_edge.errors import BackendMissing, PlanMismatch, VlfError
from vlf_edge.models.stage import Stage
from vlf_edge.types import TensorSpec

Run = Callable[[Tensor], Tensor]
LARGE = 16  # batches from here on run on engines that were built to be fastest at the largest


@dataclass(frozen=True)
class Contender:
    """open: (stage name, batch) -> a function of a device tensor of that batch; raises VlfError where it cannot be.
    graphed: whether its calls are recorded and replayed as one CUDA graph."""

    name: str
    precision: str
    open: Callable[[str, int], Run]
    graphed: bool = False


def torch_contender(name: str, stages: Mapping[str, Stage], plan: Plan, device: str, *, compiled: str = "",
                    graphed: bool = False) -> Contender:  # fmt: skip
    """PyTorch in the precision of a plan, fp32 or fp16, with the dtypes of its typed graphs between the stages.
    compiled: a mode of torch.compile, "" for eager."""
    precision = plan.manifest.precision

    def open_stage(stage: str, batch: int) -> Run:
        # A program for every batch there may be; no batch gets less than the largest of TensorRT's engines.
        outputs = plan.manifest.graph(stage, "typed").outputs
        module = trace(stages[stage], precision, outputs, max(batch, 2), device).module(check_guards=False)
        if compiled:
            torch._dynamo.reset()
            module = torch.compile(module, mode=compiled, dynamic=False)
        return torch.inference_mode()(lambda given: module(given))

    return Contender(name, precision, open_stage, graphed)


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
        options = {} if kind == "cpu" else {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
        session = ort.InferenceSession(data, providers=[(provider, options)])
        if provider not in session.get_providers():
            raise BackendMissing(f"onnxruntime {ort.__version__} could not open {provider} and fell back to the CPU")
        out = empty(result, batch, device)

        def run(images: Tensor) -> Tensor:
            images = images.contiguous()
            binding = session.io_binding()
            binding.bind_input(given.name, kind, 0, np.dtype(given.dtype), tuple(images.shape), images.data_ptr())
            binding.bind_output(result.name, kind, 0, np.dtype(result.dtype), tuple(out.shape), out.data_ptr())
            session.run_with_iobinding(binding)
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
            log = collector(trt)
            log.drain()
            opened = trt.Runtime(log).deserialize_cuda_engine(data)
            if opened is None:
                raise PlanMismatch(f"{library} {trt.__version__} refuses its own engine on this GPU: {log.drain()}")
            engines[key] = opened
        return engines[key]

    def open_stage(stage: str, batch: int) -> Run:
        opened = engine(stage, batch)
        context = opened.create_execution_context()
        if context is None:
            raise PlanMismatch(f"{library} {trt.__version__} gives no context on this GPU: {collector(trt).drain()}")
        graph = plan.manifest.graph(stage, "typed")
        (given,), (result,) = graph.inputs, graph.outputs
        out = empty(result, batch, "cuda")
        if not context.set_input_shape(given.name, tuple(_sized(given, batch))):
            raise PlanMismatch(f"{library} refuses batch {batch} of {given}")
        context.set_tensor_address(result.name, out.data_ptr())

        def run(images: Tensor) -> Tensor:
            context.set_tensor_address(given.name, images.data_ptr())
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise VlfError(f"{library} could not run: {collector(trt).drain()}")
            return out

        return run

    return Contender(f"{library}{' + CUDA graph' if graphed else ''}", precision, open_stage, graphed)


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
        with torch.cuda.graph(recorded):
            out = run(fixed)
    except RuntimeError as error:
        raise VlfError(f"cannot be recorded as a CUDA graph: {str(error).splitlines()[0]}") from error

    def replay(images: Tensor) -> Tensor:
        fixed.copy_(images)
        recorded.replay()
        return out

    return replay


def empty(spec: TensorSpec, batch: int, device: str) -> Tensor:
    """A tensor for N = ``batch`` items of a spec."""
    return torch.empty(_sized(spec, batch), dtype=getattr(torch, spec.dtype), device=device)


def _sized(spec: TensorSpec, batch: int) -> list[int]:
    return [batch if isinstance(size, str) else size for size in spec.shape]
