"""The ways a model can be run here: its ONNX graphs as they are written, and every backend of the runtime that works.

A way is a ``Stages``: plain functions over arrays, whatever is behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from ...backends import cuda, installed
from ...backends.engine import Engine
from ...backends.selection import CPU_BACKENDS, GPU_BACKENDS, engine_serves
from ...manifest import EngineInfo
from .fidelity import Stages

AS_WRITTEN = "onnx"  # ONNX Runtime with nothing fused: what the graph says, whatever a backend makes of it
BuiltEngine = tuple[EngineInfo, bytes]


def backends_here(portable: Mapping[str, bytes], engines: Sequence[BuiltEngine]) -> list[str]:
    """The backends that can run these graphs or engines on this machine, in the order in which the runtime prefers
    them."""
    gpu = cuda.gpu() if engines else None
    found = []
    for library in GPU_BACKENDS:
        served = {info.stage for info, _ in _serving(engines, library, gpu)}
        if installed(library) and served == set(portable):
            found.append(library)
    return [*found, *filter(installed, CPU_BACKENDS)]


@contextmanager
def open_way(
    way: str, portable: Mapping[str, bytes], precision: str = "fp32", engines: Sequence[BuiltEngine] = ()
) -> Iterator[Stages]:
    """Opens all stages with AS_WRITTEN or one of ``backends_here``, for the length of a with-block.

    portable: {stage: onnx bytes} for the CPU. precision: of the plan. engines: those of the plan, for GPUs.
    Raises BackendMissing, PlanMismatch or CompileError if that does not work here after all.
    """
    with ExitStack() as opened:
        if way in GPU_BACKENDS:
            from ...backends.tensorrt import TensorRTEngine

            # As the runtime does, the first that serves this GPU.
            chosen = {info.stage: data for info, data in reversed(_serving(engines, way, cuda.gpu()))}
            yield {stage: _runner(opened.enter_context(TensorRTEngine(chosen[stage], way))) for stage in portable}
        else:
            yield {stage: opened.enter_context(open_stage(way, data, precision)) for stage, data in portable.items()}


@contextmanager
def open_stage(way: str, onnx_bytes: bytes, precision: str = "fp32") -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """One graph on the CPU: AS_WRITTEN, "openvino" or "onnxruntime"."""
    if way == AS_WRITTEN:
        from ..graph import Session

        session = Session(onnx_bytes)
        (given,), (result,) = session.inputs, session.outputs
        yield lambda batch: session.run({given: batch})[result].astype(np.float32)
        return
    with _cpu_engine(way, onnx_bytes, precision) as engine:
        yield _runner(engine)


def _cpu_engine(backend: str, onnx_bytes: bytes, precision: str) -> Engine:
    if backend == "openvino":
        from ...backends.openvino import OpenVINOEngine

        return OpenVINOEngine(onnx_bytes, precision=precision)
    from ...backends.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(onnx_bytes)


def _serving(engines: Sequence[BuiltEngine], library: str, gpu: cuda.GpuInfo | None) -> list[BuiltEngine]:
    return [
        (info, data)
        for info, data in engines
        if gpu is not None and info.library == library and engine_serves(info, gpu.compute_capability)
    ]


def _runner(engine: Engine) -> Callable[[np.ndarray], np.ndarray]:
    """An engine as a function of its one input, run as a stream runs it: one frame or window at a time.

    In int8 some backends answer otherwise in a batch, by other kernels: what is measured must be what runs.
    """
    (given,), (result,) = engine.inputs, engine.outputs

    def infer(batch: np.ndarray) -> np.ndarray:
        batch = batch.astype(given.dtype, copy=False)
        parts = [engine.infer({given.name: batch[i : i + 1]})[result.name].copy() for i in range(len(batch))]
        return np.concatenate(parts).astype(np.float32)

    return infer
