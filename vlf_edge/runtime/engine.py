"""Engine: one compiled stage that maps arrays to arrays; and the choice of the engines that run a plan here.

>>> engines = open_engines(Plan.open("vlf.plan"))
>>> tokens = engines["frame"].infer({"image": image})["tokens"]
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType

import numpy as np

from ..errors import BackendMissing, PlanMismatch, ShapeError
from ..plan import EngineInfo, Plan
from ..types import TensorSpec
from . import backends
from .backends import cuda

log = logging.getLogger(__name__)

GPU_BACKENDS = ("tensorrt", "tensorrt_rtx")
CPU_BACKENDS = ("openvino", "onnxruntime")
BACKENDS = (*GPU_BACKENDS, *CPU_BACKENDS, "fake")

# GPUs that TensorRT-RTX supports, from its support matrix; 12.1 runs what was built for 12.0.
_RTX_RUNS_AS = {"7.5": "7.5", "8.0": "8.0", "8.6": "8.6", "8.9": "8.9", "12.0": "12.0", "12.1": "12.0"}


class Engine(ABC):
    """One compiled stage. Serves one thread at a time; different engines may run in different threads.

    backend: "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx" or "fake".
    inputs, outputs: what goes in and comes out; a string in a shape is a dynamic axis, "N" the batch.
    dynamic_batch: whether N may change from call to call. max_batch: largest N, None if it has no limit or is fixed.
    """

    def __init__(
        self,
        backend: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int | None = None,
    ):
        self.backend = backend
        self.inputs = inputs
        self.outputs = outputs
        self.dynamic_batch = all(isinstance(spec.shape[0], str) for spec in inputs if spec.shape)
        self.max_batch = max_batch
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))})"

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the stage once.

        inputs: one array for each of ``self.inputs``, of its exact dtype and shape. Returns one new array for each of
        ``self.outputs``; it belongs to the caller. Raises ShapeError (got, expected) before anything is run.
        """
        if self._closed:
            raise RuntimeError(f"infer was called on a closed {self.backend} engine")
        self._check(inputs)
        return self._infer(inputs)

    def close(self) -> None:
        """Frees what the engine holds. May be called again."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``infer``, with inputs already checked."""

    def _close(self) -> None:
        """Frees what the backend holds; called once."""

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        names = [spec.name for spec in self.inputs]
        if sorted(inputs) != sorted(names):
            raise ShapeError(f"got inputs {sorted(inputs)}, expected {sorted(names)}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = inputs[spec.name]
            if not isinstance(array, np.ndarray):
                raise ShapeError(f"input {spec.name} is {type(array).__name__}, expected a numpy array: {spec}")
            fits = array.dtype == spec.dtype and array.ndim == len(spec.shape)
            # A dynamic axis takes any size from 1, the same one wherever its name stands.
            fits = fits and all(
                got == (sizes.setdefault(want, got) if isinstance(want, str) else want) and got > 0
                for got, want in zip(array.shape, spec.shape)
            )
            if not fits:
                known = "".join(f", {name}={size}" for name, size in sizes.items())
                raise ShapeError(f"input {spec.name} is {array.dtype}{array.shape}, expected {spec}{known}")
        if self.max_batch is not None and sizes.get("N", 1) > self.max_batch:
            raise ShapeError(f"got a batch of {sizes['N']}, expected 1 to {self.max_batch} for {self!r}")


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
            except (BackendMissing, PlanMismatch) as error:
                reasons.append(str(error))
    # What is missing, without the remedy: nobody who is content with the CPU needs to hear it at every start.
    why = f" (not on a GPU: {'; '.join(reason.split('; ')[0] for reason in reasons)})" if reasons else ""
    for name in CPU_BACKENDS:
        if backends.installed(name):
            if reasons:
                log.info("running on the CPU with %s%s", name, why)
            return _open_portable(plan, name)
    raise BackendMissing(
        f"nothing here can run {plan.path}: neither OpenVINO nor ONNX Runtime is installed{why}; "
        f"install one with: {backends.install_command('openvino')}"
    )


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
    have = "; ".join(map(_built_for, engines)) or f"no {library} engine of stage {stage!r}"
    raise PlanMismatch(f"{plan.path} has {have}; found here: {gpu}; {_rebuild(plan, library, gpu)}")


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
