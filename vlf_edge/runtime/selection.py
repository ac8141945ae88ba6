"""The choice of the engines that run a plan here: the GPU's if one fits, else OpenVINO, else ONNX Runtime.

>>> engines = open_engines(Plan.open("vlf.plan"))
>>> tokens = engines["frame"].infer({"image": image})["tokens"]
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from ..errors import BackendMissing, PlanMismatch, VlfError
from ..manifest import EngineInfo
from ..plan import Plan
from . import backends
from .backends import cuda
from .engine import Engine

log = logging.getLogger(__name__)

GPU_BACKENDS = ("tensorrt", "tensorrt_rtx")
CPU_BACKENDS = ("openvino", "onnxruntime")
BACKENDS = (*GPU_BACKENDS, *CPU_BACKENDS, "fake")

# GPUs that TensorRT-RTX supports, from its support matrix; 12.1 runs what was built for 12.0.
_RTX_RUNS_AS = {"7.5": "7.5", "8.0": "8.0", "8.6": "8.6", "8.9": "8.9", "12.0": "12.0", "12.1": "12.0"}


def open_engines(plan: Plan, *, backend: str = "auto", device: int = 0) -> dict[str, Engine]:
    """Opens every stage of a plan on one backend: {stage: Engine}.

    backend: "auto" takes the plan's GPU engines if they fit this machine, else OpenVINO, else ONNX Runtime; a name out
    of BACKENDS takes that one only. device: number of the GPU.
    Raises BackendMissing (a library or a GPU is not here) or PlanMismatch (no engine of this plan fits this GPU).
    """
    if backend == "auto":
        return _open_auto(plan, device)
    if backend in GPU_BACKENDS:
        return _open_on_gpu(plan, backend, device, only_listed=False)
    if backend in BACKENDS:
        return _open_portable(plan, backend)
    raise BackendMissing(f"there is no backend {backend!r}; available: auto, {', '.join(BACKENDS)}")


def engine_serves(engine: EngineInfo, compute_capability: str) -> bool:
    """Whether an engine was built for GPUs of this compute capability ("8.6"). Only deserialising is proof."""
    if engine.library == "tensorrt_rtx":
        compute_capability = _RTX_RUNS_AS.get(compute_capability, compute_capability)
    return compute_capability in engine.compute_capabilities


def _open_auto(plan: Plan, device: int) -> dict[str, Engine]:
    reasons = []
    for library in GPU_BACKENDS:
        if any(engine.library == library for engine in plan.manifest.engines):
            try:
                return _open_on_gpu(plan, library, device, only_listed=True)
            except VlfError as error:  # also a lack of GPU memory: the CPU can still decide
                reasons.append(str(error))
    for name in filter(backends.installed, CPU_BACKENDS):
        try:
            engines = _open_portable(plan, name)
        except BackendMissing as error:  # installed, but broken
            reasons.append(str(error))
            continue
        if reasons:
            log.warning("running on the CPU with %s: %s", name, _without_remedies(reasons))
        return engines
    why = f" ({_without_remedies(reasons)})" if reasons else ""
    raise BackendMissing(
        f"nothing here can run {plan.path}: neither OpenVINO nor ONNX Runtime is here{why}; "
        f"install one with: {backends.install_command('openvino')}"
    )


def _without_remedies(reasons: list[str]) -> str:
    """What is missing; nobody who is content with the CPU needs to hear at every start how to change that."""
    return "; ".join(reason.split("; ")[0] for reason in reasons)


def _open_portable(plan: Plan, backend: str) -> dict[str, Engine]:
    def opener(stage: str) -> Engine:
        if backend == "fake":
            from .backends.fake import FakeEngine

            graph = plan.manifest.graph(stage, "portable")
            return FakeEngine(graph.inputs, graph.outputs)
        onnx_bytes = plan.graph(stage, "portable")
        if backend == "openvino":
            from .backends.openvino import OpenVINOEngine

            return OpenVINOEngine(onnx_bytes, precision=plan.manifest.precision)
        from .backends.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(onnx_bytes)

    return _open_all(plan, opener)


def _open_on_gpu(plan: Plan, library: str, device: int, *, only_listed: bool) -> dict[str, Engine]:
    from .backends.tensorrt import TensorRTEngine

    backends.require(library)
    gpu = cuda.probe(device)
    chosen = {stage: _choose(plan, stage, library, gpu, only_listed) for stage in plan.manifest.stages}

    def opener(stage: str) -> Engine:
        try:
            return TensorRTEngine(plan.read(chosen[stage].member), library, device)
        except PlanMismatch as error:
            raise PlanMismatch(f"{_built_for(chosen[stage])}: {error}; {_rebuild(plan, library, gpu)}") from error

    return _open_all(plan, opener)


def _choose(plan: Plan, stage: str, library: str, gpu: cuda.GpuInfo, only_listed: bool) -> EngineInfo:
    """The engine that lists this GPU; else, if allowed, the one for most GPUs, so that the library can say why not."""
    engines = [e for e in plan.manifest.engines if (e.stage, e.library) == (stage, library)]
    listed = [e for e in engines if engine_serves(e, gpu.compute_capability)]
    if listed:
        return listed[0]
    if engines and not only_listed:
        return max(engines, key=lambda e: len(e.compute_capabilities))
    have = " and ".join(map(_built_for, engines)) or f"no {library} engine of stage {stage!r}"
    raise PlanMismatch(f"{plan.path} has {have}, found here: {gpu}; {_rebuild(plan, library, gpu)}")


def _built_for(engine: EngineInfo) -> str:
    where = f" on {engine.device}" if engine.device else ""
    return (
        f"{engine.member} built for compute capability {', '.join(engine.compute_capabilities)}"
        f" with {engine.library} {engine.version}{where}"
    )


def _rebuild(plan: Plan, library: str, gpu: cuda.GpuInfo) -> str:
    target = library
    if library == "tensorrt_rtx" and gpu.compute_capability in _RTX_RUNS_AS:
        target = "rtx-turing" if gpu.compute_capability == "7.5" else "rtx"
    elif library == "tensorrt_rtx":
        target = "tensorrt"  # TensorRT-RTX does not support this GPU, TensorRT may.
    return f"add an engine for this GPU with: vlf-edge build {plan.path} --target {target}"


def _open_all(plan: Plan, opener: Callable[[str], Engine]) -> dict[str, Engine]:
    """Opens all stages or none: if one fails, those before it are closed."""
    with ExitStack() as opened:
        engines = {stage: opened.enter_context(opener(stage)) for stage in plan.manifest.stages}
        opened.pop_all()
    return engines
