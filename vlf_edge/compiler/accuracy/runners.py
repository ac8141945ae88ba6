"""The ways a model can be run here: its ONNX graphs as they are written, and every backend of the runtime that works.

What runs a plan is a ``Stages``: plain functions over arrays, whatever is behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from ...backends import cuda, installed
from ...backends.engine import Engine
from ...backends.selection import engine_serves
from ...backends.table import CPU_BACKENDS, GPU_BACKENDS, TABLE
from ...manifest import EngineInfo
from .fidelity import Stages

AS_WRITTEN = "onnx"  # ONNX Runtime with nothing fused: what the graph says, whatever a backend makes of it
EngineFile = tuple[EngineInfo, bytes]  # what an engine of a plan is, and its bytes


def runners_here(portable: Mapping[str, bytes], engines: Sequence[EngineFile]) -> list[str]:
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
def open_stages(
    runner: str, portable: Mapping[str, bytes], precision: str = "fp32", engines: Sequence[EngineFile] = ()
) -> Iterator[Stages]:
    """Opens all stages with AS_WRITTEN or one of ``runners_here``, for the length of a with-block.

    portable: {stage: onnx bytes} for the CPU. precision: of the plan. engines: those of the plan, for GPUs.
    Raises BackendMissing, PlanMismatch or CompileError if that does not work here after all.
    """
    with ExitStack() as opened:
        if runner in GPU_BACKENDS:
            from ...backends.tensorrt import TensorRTEngine

            # As the runtime does, the first that serves this GPU.
            chosen = {info.stage: data for info, data in reversed(_serving(engines, runner, cuda.gpu()))}
            engine_of = {s: opened.enter_context(TensorRTEngine(chosen[s], runner)) for s in portable}
            yield {stage: _function_of(engine) for stage, engine in engine_of.items()}
        else:
            yield {stage: opened.enter_context(open_stage(runner, data, precision)) for stage, data in portable.items()}


@contextmanager
def open_stage(runner: str, onnx_bytes: bytes, precision: str = "fp32") -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """One graph on the CPU: AS_WRITTEN, "openvino" or "onnxruntime"."""
    if runner == AS_WRITTEN:
        from ..graph import Session

        session = Session(onnx_bytes)
        (given,), (result, *_) = session.inputs, session.outputs
        yield lambda batch: session.run({given: batch})[result].astype(np.float32)
        return
    with TABLE[runner].open_graph(onnx_bytes, precision=precision) as engine:
        yield _function_of(engine)


def _serving(engines: Sequence[EngineFile], library: str, gpu: cuda.GpuInfo | None) -> list[EngineFile]:
    return [
        (info, data)
        for info, data in engines
        if gpu is not None and info.library == library and engine_serves(info, gpu.compute_capability)
    ]


def _function_of(engine: Engine) -> Callable[[np.ndarray], np.ndarray]:
    """An engine as a function of its one input, run as the stream of one camera runs it: one frame or window at a time.

    In int8 a backend may take other kernels for a batch, as several streams and whole clips are run. That those answer
    nearly the same is tested, and docs/int8.md has figures.
    """
    (given,), (result, *_) = engine.inputs, engine.outputs  # tokens or logits; features come after them

    def infer(batch: np.ndarray) -> np.ndarray:
        outputs = engine.infer_all({given.name: batch.astype(given.dtype, copy=False)}, batch=1)
        return outputs[result.name].astype(np.float32)

    return infer
