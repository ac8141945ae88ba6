"""A stage on an NVIDIA GPU: TensorRT 10.3 to 11 and TensorRT-RTX through one code path.

The two libraries differ by the name of their module; only what all of these versions have is used.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import BackendMissing, PlanMismatch, VlfError
from ..printable import printable
from ..types import TensorSpec
from . import cuda, install_command, load
from .engine import Engine
from .holdings import Context, Holdings
from .kernel_cache import KernelCache

log = logging.getLogger(__name__)

# By the names of trt.DataType: trt.nptype fails in some versions with some versions of NumPy.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class GpuTensor:
    """A tensor of fixed shape in the memory of a GPU."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @functools.cached_property
    def size_bytes(self) -> int:
        return _size_bytes(self.shape, self.dtype)


class TensorRTEngine(Engine):
    """Runs the bytes of a TensorRT ("tensorrt") or TensorRT-RTX ("tensorrt_rtx") engine on one GPU.

    All memory is allocated once, for the largest batch of the engine's first optimisation profile; an inference is
    then copies in, one enqueue, copies out and one wait. ``fixed_run`` is the other way to use it, for streams.
    cuda_graph: let those run as one CUDA graph instead of kernel by kernel. stream: all work of ``infer``.
    What it holds goes with ``close``, or else with the object.
    Raises BackendMissing without library or GPU, and PlanMismatch with the library's own messages if it refuses the
    engine on this GPU.
    """

    chains_on_gpu = True

    def __init__(self, engine_bytes: bytes, library: str, device: int = 0, *, cuda_graph: bool = True):
        self._trt = trt = load(library)
        self._trt_log = collector(trt)
        gpu = cuda.probe(device)
        self._cuda_graph = cuda_graph
        self.identity = hashlib.sha256(engine_bytes).hexdigest()
        self.stream = cuda.Stream(device)
        self._held = Holdings(self.stream)
        self._release = weakref.finalize(self, self._held.release)
        try:
            with self.stream.current():
                self._open(engine_bytes, gpu)
                inputs, outputs = (self._specs(trt, mode) for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT))
                super().__init__(library, inputs, outputs, self._largest_batch(inputs))
                self._allocate()
        except BaseException:
            self._release()
            raise

    def fixed_run(self, batch: int, stream: cuda.Stream) -> FixedRun:
        """The engine for batches of one size, on a stream of the same GPU, with a context and memory of its own.

        It belongs to the engine and ends with it. Call inside ``stream.current()``. Raises VlfError.
        """
        if stream not in self._held.streams:
            self._held.streams.append(stream)
        context = self._new_context(self._profile_for_one() if batch == 1 else 0, stream)
        try:
            run = FixedRun(self, context, batch, stream)
        except BaseException:
            stream.settle()
            self._held.drop(context)
            raise
        if self._held.kernels is not None:
            self._held.kernels.save()
        return run

    @property
    def captures(self) -> bool:
        """Whether a CUDA graph is to be captured from a stream: TensorRT-RTX makes its own, inside."""
        return self._cuda_graph and self._held.kernels is None

    def run(self, context: Context, stream: cuda.Stream) -> None:
        """Queues what a context is set up for. Raises VlfError with the library's own messages."""
        if not context.raw.execute_async_v3(stream.handle):
            raise VlfError(f"{self.backend} could not run: {self._trt_log.drain()}")

    def _open(self, engine_bytes: bytes, gpu: cuda.GpuInfo) -> None:
        trt = self._trt
        self._here = f"{trt.__name__.split('.')[0]} {trt.__version__} on {gpu}"
        self._held.runtime = start(trt, trt.Runtime)
        self._held.engine = self._held.runtime.deserialize_cuda_engine(engine_bytes)
        if self._held.engine is None:
            raise self._refused()
        if hasattr(trt, "CudaGraphStrategy"):  # TensorRT-RTX, which compiles its kernels only now
            config = self._held.engine.create_runtime_config()
            self._held.kernels = KernelCache(config, engine_bytes, gpu.compute_capability, trt.__version__)
        self._context = self._new_context()

    def _profile_for_one(self) -> int:
        """The optimisation profile for batches of one: of its own if the engine has such a one, else the first."""
        engine = self._held.engine
        dynamic = [spec.name for spec in self.inputs if any(isinstance(size, str) for size in spec.shape)]
        for index in range(1, engine.num_optimization_profiles):
            if all(engine.get_tensor_profile_shape(name, index)[2][0] == 1 for name in dynamic):
                return index
        return 0

    def _new_context(self, profile: int = 0, stream: cuda.Stream | None = None) -> Context:
        """profile: the optimisation profile it works with, set on ``stream``. Raises PlanMismatch, VlfError."""
        engine, kernels_kept, config = self._held.engine, self._held.kernels, None
        if kernels_kept is None and profile == 0:
            raw = engine.create_execution_context()
        elif kernels_kept is None:  # memory for this profile, not for the largest of all
            raw = engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
        else:
            config, trt = engine.create_runtime_config(), self._trt
            graphs, kernels = trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy
            config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if self._cuda_graph else graphs.DISABLED
            # Kernels for a new shape at once, to be kept for the next start. By default they are compiled on threads
            # aside, whose messages need Python's lock to reach our logger: a context that was released meanwhile, which
            # is done holding that lock, would wait for them, and they for it, for ever.
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            kernels_kept.serve(config)
            raw = engine.create_execution_context(config)
        if raw is None:
            raise self._refused()
        self._held.contexts.append(Context(raw, config))
        if profile and not raw.set_optimization_profile_async(profile, stream.handle):
            raise self._refused()
        return self._held.contexts[-1]

    def _refused(self) -> VlfError:
        """What the library said; a lack of memory is not the engine's fault, and another engine would not cure it."""
        words = self._trt_log.drain()
        if re.search(r"out ?of ?memory", words, re.IGNORECASE):
            return VlfError(f"{self._here} has too little GPU memory for this engine: {words}")
        return PlanMismatch(f"{self._here} refuses this engine: {words}")

    def _specs(self, trt: ModuleType, mode: Any) -> tuple[TensorSpec, ...]:
        engine, specs = self._held.engine, []
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            if engine.get_tensor_mode(name) == mode:
                dtype = engine.get_tensor_dtype(name).name
                if dtype not in _DTYPES:
                    known = ", ".join(_DTYPES)
                    raise PlanMismatch(f"tensor {name} of this engine is {dtype}, expected one of {known}")
                shape = tuple(engine.get_tensor_shape(name))
                named = (("N" if axis == 0 else f"axis{axis}") if size < 0 else size for axis, size in enumerate(shape))
                specs.append(TensorSpec(name, _DTYPES[dtype], tuple(named)))
        return tuple(specs)

    def _largest_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        if not any(isinstance(size, str) for size in spec.shape):
            return spec.shape
        _smallest, _best, largest = self._held.engine.get_tensor_profile_shape(spec.name, 0)
        return tuple(largest)

    def _largest_batch(self, inputs: tuple[TensorSpec, ...]) -> int | None:
        return min((self._largest_shape(spec)[0] for spec in inputs if isinstance(spec.shape[0], str)), default=None)

    def _allocate(self) -> None:
        """Gives every tensor GPU memory and page-locked memory for the largest batch."""
        self._pinned: dict[str, np.ndarray] = {}
        self._pointers: dict[str, int] = {}
        for spec in self.inputs:
            self.set_input_shape(self._context, spec.name, self._largest_shape(spec))
        for spec in (*self.inputs, *self.outputs):
            shape = tuple(self._context.raw.get_tensor_shape(spec.name))
            if min(shape, default=1) < 0:
                raise PlanMismatch(f"{self.backend} does not know the largest shape of {spec}: it depends on the data")
            size_bytes = _size_bytes(shape, spec.dtype)
            self._pinned[spec.name] = self.stream.allocate_pinned(size_bytes)
            self._pointers[spec.name] = self.stream.allocate(size_bytes)
            self.set_address(self._context, spec.name, self._pointers[spec.name])

    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self.stream.current():
            return self._infer_here(inputs)

    def _infer_here(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for spec in self.inputs:
            array = inputs[spec.name]
            self.set_input_shape(self._context, spec.name, array.shape)
            np.copyto(self._staged(spec, array.shape), array)
            self.stream.upload(self._pointers[spec.name], self._pinned[spec.name][: array.nbytes])
        self.run(self._context, self.stream)
        results = {}
        for spec in self.outputs:
            results[spec.name] = self._staged(spec, tuple(self._context.raw.get_tensor_shape(spec.name)))
            self.stream.download(self._pinned[spec.name][: results[spec.name].nbytes], self._pointers[spec.name])
        self.stream.synchronize()
        return {name: staged.copy() for name, staged in results.items()}

    def _staged(self, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
        """The beginning of a tensor's page-locked memory, seen as an array of that shape."""
        size_bytes = _size_bytes(shape, spec.dtype)
        return self._pinned[spec.name][:size_bytes].view(spec.dtype).reshape(shape)

    def set_input_shape(self, context: Context, name: str, shape: tuple[int, ...]) -> None:
        """Raises VlfError with the library's own messages."""
        if not context.raw.set_input_shape(name, shape):
            raise VlfError(f"{self.backend} refuses shape {tuple(shape)} for {name}: {self._trt_log.drain()}")

    def set_address(self, context: Context, name: str, pointer: int) -> None:
        """Raises VlfError with the library's own messages."""
        if not context.raw.set_tensor_address(name, pointer):
            raise VlfError(f"{self.backend} refuses the memory of {name}: {self._trt_log.drain()}")

    def _close(self) -> None:
        self._release()


class FixedRun:
    """An engine set up for one batch size: inputs and outputs at fixed places on the GPU, one call to queue the work.

    inputs, outputs: by name, of that batch. With TensorRT the work is a CUDA graph; its context is this run's own,
    since another shape on the same context would move the memory that the graph has noted.
    """

    def __init__(self, engine: TensorRTEngine, context: Context, batch: int, stream: cuda.Stream):
        self._engine, self._context, self.stream, self._graph = engine, context, stream, None
        self.batch = batch
        for spec in engine.inputs:
            engine.set_input_shape(context, spec.name, (batch, *spec.shape[1:]))
        self.inputs, self.outputs = self._place(engine.inputs), self._place(engine.outputs)
        self.enqueue()  # the first run may allocate and compile, which no graph can hold
        stream.synchronize()
        if engine.captures:
            try:
                self._graph = stream.capture(lambda: engine.run(context, stream))
            except VlfError as error:
                log.warning("%s runs without a CUDA graph, kernel by kernel: %s", engine.backend, str(error))

    def enqueue(self) -> None:
        """Queues one run. Raises VlfError."""
        if self._graph is None:
            self._engine.run(self._context, self.stream)
        else:
            self.stream.launch(self._graph)

    def _place(self, specs: tuple[TensorSpec, ...]) -> dict[str, GpuTensor]:
        placed = {}
        for spec in specs:
            shape = tuple(int(size) for size in self._context.raw.get_tensor_shape(spec.name))
            pointer = self._engine.stream.allocate(_size_bytes(shape, spec.dtype))
            placed[spec.name] = GpuTensor(pointer, shape, np.dtype(spec.dtype))
            self._engine.set_address(self._context, spec.name, placed[spec.name].pointer)
        return placed


def _size_bytes(shape: tuple[int, ...], dtype: np.dtype | str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def start(trt: ModuleType, kind: Callable[[Any], Any]) -> Any:
    """A new ``trt.Runtime`` or ``trt.Builder``. Raises BackendMissing if CUDA cannot start inside the library.

    The bindings then raise TypeError, or give an object that crashes as soon as it is used: what was logged tells.
    """
    log = collector(trt)
    log.drain()
    try:
        made = kind(log)
    except TypeError as error:
        cause: TypeError | None = error
    else:
        if not log.failed:
            return made
        cause = None
    name = trt.__name__.split(".")[0]
    raise BackendMissing(
        f"{name} {trt.__version__} cannot start CUDA here ({log.drain()})",
        remedy=f"update the NVIDIA driver until it has the CUDA version of this {name}, or install one for the "
        f"driver's: {install_command(name)}",
    ) from cause


@functools.cache
def collector(trt: ModuleType) -> Any:
    """The logger of a TensorRT module: keeps errors and warnings for the exception, passes the rest to ``logging``.

    One for the whole process, since TensorRT keeps the first logger it is given and ignores later ones.
    ``drain()`` returns what was said since the last call, errors only if there are any, and forgets it; ``failed`` is
    whether there are any.
    """

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._lines: list[tuple[bool, str]] = []

        def log(self, severity: Any, message: str) -> None:
            failed = severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if failed or severity == trt.ILogger.WARNING:
                self._lines = [*self._lines[-99:], (failed, message.strip())]
            elif severity == trt.ILogger.INFO:
                log.debug("%s", printable(message))

        @property
        def failed(self) -> bool:
            return any(failed for failed, _ in self._lines)

        def drain(self) -> str:
            lines, self._lines = self._lines, []
            errors = [message for failed, message in lines if failed]
            return "; ".join(dict.fromkeys(errors or [message for _, message in lines])) or "it gave no reason"

    return Collector()
