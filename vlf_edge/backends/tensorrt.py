"""A stage on an NVIDIA GPU: TensorRT 10.3 to 11 and TensorRT-RTX through one code path.

The two libraries differ by the name of their module; only what all of these versions have is used.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import PlanMismatch, VlfError
from ..types import TensorSpec
from . import cuda, load
from .engine import Engine
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
    Raises BackendMissing without library or GPU, and PlanMismatch with the library's own messages if it refuses the
    engine on this GPU.
    """

    chains_on_gpu = True

    def __init__(self, engine_bytes: bytes, library: str, device: int = 0, *, cuda_graph: bool = True):
        self._trt = trt = load(library)
        self._trt_log = collector(trt)
        gpu = cuda.probe(device)
        self._cuda_graph = cuda_graph
        self.stream = cuda.Stream(device)
        self._runs: list[FixedRun] = []
        self._configs: list[Any] = []
        self._kernels: KernelCache | None = None
        self._context = self._engine = self._trt_runtime = None
        try:
            with self.stream.current():
                self._open(engine_bytes, gpu)
                inputs, outputs = (self._specs(trt, mode) for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT))
                super().__init__(library, inputs, outputs, self._largest_batch(inputs))
                self._allocate()
        except BaseException:
            self._close()
            raise

    def fixed_run(self, batch: int, stream: cuda.Stream) -> FixedRun:
        """The engine for batches of one size, on a stream of the same GPU, with a context and memory of its own.

        It belongs to the engine and ends with it. Call inside ``stream.current()``. Raises VlfError.
        """
        self._runs.append(FixedRun(self, self._new_context(one_shape=True), batch, stream))
        if self._kernels is not None:
            self._kernels.save()
        return self._runs[-1]

    @property
    def captures(self) -> bool:
        """Whether a CUDA graph is to be captured from a stream: TensorRT-RTX makes its own, inside."""
        return self._cuda_graph and self._kernels is None

    def run(self, context: Any, stream: cuda.Stream) -> None:
        """Queues what a context is set up for. Raises VlfError with the library's own messages."""
        if not context.execute_async_v3(stream.handle):
            raise VlfError(f"{self.backend} could not run: {self._trt_log.drain()}")

    def _open(self, engine_bytes: bytes, gpu: cuda.GpuInfo) -> None:
        trt = self._trt
        self._here = f"{trt.__name__.split('.')[0]} {trt.__version__} on {gpu}"
        self._trt_log.drain()
        self._trt_runtime = trt.Runtime(self._trt_log)
        self._engine = self._trt_runtime.deserialize_cuda_engine(engine_bytes)
        if self._engine is None:
            raise self._refused()
        if hasattr(trt, "CudaGraphStrategy"):  # TensorRT-RTX, which compiles its kernels only now
            config = self._engine.create_runtime_config()
            self._kernels = KernelCache(config, engine_bytes, gpu.compute_capability, trt.__version__)
        self._context = self._new_context()

    def _new_context(self, one_shape: bool = False) -> Any:
        """An execution context. one_shape: it will only ever see one. Raises PlanMismatch, VlfError."""
        if self._kernels is None:
            context = self._engine.create_execution_context()
        else:
            config, trt = self._engine.create_runtime_config(), self._trt
            graphs, kernels = trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy
            config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if self._cuda_graph else graphs.DISABLED
            # Kernels for this shape at once, to be kept for the next start: by default they are compiled on the side.
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER if one_shape else kernels.LAZY
            self._kernels.serve(config)
            self._configs.append(config)
            context = self._engine.create_execution_context(config)
        if context is None:
            raise self._refused()
        return context

    def _refused(self) -> VlfError:
        """What the library said; a lack of memory is not the engine's fault, and another engine would not cure it."""
        words = self._trt_log.drain()
        if re.search(r"out ?of ?memory", words, re.IGNORECASE):
            return VlfError(f"{self._here} has too little GPU memory for this engine: {words}")
        return PlanMismatch(f"{self._here} refuses this engine: {words}")

    def _specs(self, trt: ModuleType, mode: Any) -> tuple[TensorSpec, ...]:
        engine, specs = self._engine, []
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            if engine.get_tensor_mode(name) == mode:
                dtype = engine.get_tensor_dtype(name).name
                shape = tuple(engine.get_tensor_shape(name))
                named = (("N" if axis == 0 else f"axis{axis}") if size < 0 else size for axis, size in enumerate(shape))
                specs.append(TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(named)))
        return tuple(specs)

    def _largest_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        if not any(isinstance(size, str) for size in spec.shape):
            return spec.shape
        _smallest, _best, largest = self._engine.get_tensor_profile_shape(spec.name, 0)
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
            shape = tuple(self._context.get_tensor_shape(spec.name))
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
            results[spec.name] = self._staged(spec, tuple(self._context.get_tensor_shape(spec.name)))
            self.stream.download(self._pinned[spec.name][: results[spec.name].nbytes], self._pointers[spec.name])
        self.stream.synchronize()
        return {name: staged.copy() for name, staged in results.items()}

    def _staged(self, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
        """The beginning of a tensor's page-locked memory, seen as an array of that shape."""
        size_bytes = _size_bytes(shape, spec.dtype)
        return self._pinned[spec.name][:size_bytes].view(spec.dtype).reshape(shape)

    def set_input_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> None:
        """Raises VlfError with the library's own messages."""
        if not context.set_input_shape(name, shape):
            raise VlfError(f"{self.backend} refuses shape {tuple(shape)} for {name}: {self._trt_log.drain()}")

    def set_address(self, context: Any, name: str, pointer: int) -> None:
        """Raises VlfError with the library's own messages."""
        if not context.set_tensor_address(name, pointer):
            raise VlfError(f"{self.backend} refuses the memory of {name}: {self._trt_log.drain()}")

    def _close(self) -> None:
        try:
            with self.stream.current():
                self._free()
        except VlfError as error:  # after a fault on the GPU, which is on its way up
            log.warning("%s", error)
        finally:
            self.stream.close()

    def _free(self) -> None:
        """Users before what they use: contexts, their configs and kernels, the engine, its runtime."""
        for stream in {id(stream): stream for stream in (self.stream, *(run.stream for run in self._runs))}.values():
            stream.settle()
        if self._kernels is not None and self._context is not None:
            self._kernels.save()
        for run in self._runs:
            run.close()
        self._context = None
        self._configs.clear()
        self._kernels = None
        self._engine = None
        self._trt_runtime = None


class FixedRun:
    """An engine set up for one batch size: inputs and outputs at fixed places on the GPU, one call to queue the work.

    inputs, outputs: by name, of that batch. With TensorRT the work is a CUDA graph; its context is this run's own,
    since another shape on the same context would move the memory that the graph has noted.
    """

    def __init__(self, engine: TensorRTEngine, context: Any, batch: int, stream: cuda.Stream):
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
                log.info("%s runs without a CUDA graph: %s", engine.backend, str(error))

    def enqueue(self) -> None:
        """Queues one run. Raises VlfError."""
        if self._graph is None:
            self._engine.run(self._context, self.stream)
        else:
            self.stream.launch(self._graph)

    def close(self) -> None:
        """Lets go of the context; the memory is the streams'."""
        self._context = self._graph = None

    def _place(self, specs: tuple[TensorSpec, ...]) -> dict[str, GpuTensor]:
        placed = {}
        for spec in specs:
            shape = tuple(int(size) for size in self._context.get_tensor_shape(spec.name))
            pointer = self._engine.stream.allocate(_size_bytes(shape, spec.dtype))
            placed[spec.name] = GpuTensor(pointer, shape, np.dtype(spec.dtype))
            self._engine.set_address(self._context, spec.name, placed[spec.name].pointer)
        return placed


def _size_bytes(shape: tuple[int, ...], dtype: np.dtype | str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


@functools.cache
def collector(trt: ModuleType) -> Any:
    """The logger of a TensorRT module: keeps errors and warnings for the exception, passes the rest to ``logging``.

    One for the whole process, since TensorRT keeps the first logger it is given and ignores later ones.
    ``drain()`` returns what was said since the last call, errors only if there are any, and forgets it.
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
                log.debug("%s", message)

        def drain(self) -> str:
            lines, self._lines = self._lines, []
            errors = [message for failed, message in lines if failed]
            return "; ".join(dict.fromkeys(errors or [message for _, message in lines])) or "it gave no reason"

    return Collector()
