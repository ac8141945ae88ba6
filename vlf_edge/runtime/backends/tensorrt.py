"""A stage on an NVIDIA GPU: TensorRT 10.3 to 11 and TensorRT-RTX through one code path.

The two libraries differ by the name of their module; only what all of these versions have is used.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import PlanMismatch, VlfError
from ...types import TensorSpec
from ..engine import Engine
from . import cuda, load

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


class TensorRTEngine(Engine):
    """Runs the bytes of a TensorRT ("tensorrt") or TensorRT-RTX ("tensorrt_rtx") engine on one GPU.

    All memory is allocated once, for the largest batch of the engine's first optimisation profile; an inference is
    then copies in, one enqueue, copies out and one wait. Raises BackendMissing without library or GPU, and
    PlanMismatch with the library's own messages if it refuses the engine on this GPU.
    """

    def __init__(self, engine_bytes: bytes, library: str, device: int = 0):
        trt = load(library)
        self._trt_log = collector(trt)
        gpu = cuda.probe(device)
        self._stream = cuda.Stream(device)
        self._context = self._engine = self._trt_runtime = None
        try:
            self._open(trt, engine_bytes, f"{library} {trt.__version__} on {gpu}")
            inputs, outputs = (self._specs(trt, mode) for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT))
            super().__init__(library, inputs, outputs, self._largest_batch(inputs))
            self._allocate()
        except BaseException:
            self._close()
            raise

    def _open(self, trt: ModuleType, engine_bytes: bytes, here: str) -> None:
        self._trt_log.drain()
        self._trt_runtime = trt.Runtime(self._trt_log)
        self._engine = self._trt_runtime.deserialize_cuda_engine(engine_bytes)
        if self._engine is not None:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise PlanMismatch(f"{here} refuses this engine: {self._trt_log.drain()}")

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
            self._set_input_shape(spec.name, self._largest_shape(spec))
        for spec in (*self.inputs, *self.outputs):
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if min(shape, default=1) < 0:
                raise PlanMismatch(f"{self.backend} does not know the largest shape of {spec}: it depends on the data")
            size_bytes = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
            self._pinned[spec.name] = self._stream.allocate_pinned(size_bytes)
            self._pointers[spec.name] = self._stream.allocate(size_bytes)
            if not self._context.set_tensor_address(spec.name, self._pointers[spec.name]):
                raise VlfError(f"{self.backend} refuses the memory of {spec}: {self._trt_log.drain()}")

    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._stream.use()
        for spec in self.inputs:
            array = inputs[spec.name]
            self._set_input_shape(spec.name, array.shape)
            np.copyto(self._staged(spec, array.shape), array)
            self._stream.upload(self._pointers[spec.name], self._pinned[spec.name][: array.nbytes])
        if not self._context.execute_async_v3(self._stream.handle):
            raise VlfError(f"{self.backend} could not run: {self._trt_log.drain()}")
        results = {}
        for spec in self.outputs:
            results[spec.name] = self._staged(spec, tuple(self._context.get_tensor_shape(spec.name)))
            self._stream.download(self._pinned[spec.name][: results[spec.name].nbytes], self._pointers[spec.name])
        self._stream.synchronize()
        return {name: staged.copy() for name, staged in results.items()}

    def _staged(self, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
        """The beginning of a tensor's page-locked memory, seen as an array of that shape."""
        size_bytes = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
        return self._pinned[spec.name][:size_bytes].view(spec.dtype).reshape(shape)

    def _set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise VlfError(f"{self.backend} refuses shape {tuple(shape)} for {name}: {self._trt_log.drain()}")

    def _close(self) -> None:
        # The context uses the memory and the engine, the engine its runtime: freed in that order.
        self._context = None
        self._engine = None
        self._trt_runtime = None
        self._stream.close()


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
