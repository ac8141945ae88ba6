"""The few CUDA calls that an engine needs, through NVIDIA's cuda-bindings; every return code is checked."""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import BackendMissing, VlfError, raise_interrupt
from .table import TABLE

log = logging.getLogger(__name__)

_INSTALL = (
    "install those of the driver's CUDA with: pip install cuda-bindings (CUDA 12: 'cuda-bindings<13', JetPack 6: "
    "'cuda-bindings<12.9', JetPack 7.0 and 7.1: 'cuda-bindings<13.1', JetPack 7.2: 'cuda-bindings<13.3')"
)


@dataclass(frozen=True)
class GpuInfo:
    """One CUDA device. compute_capability: such as "8.6". integrated: it shares its memory with the CPU.
    multiprocessors: how many it computes with."""

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool
    multiprocessors: int

    @property
    def model(self) -> str:
        """What TensorRT times its kernels for. All modules of one Jetson generation go by one name, whatever their
        size, so that "Orin" is "Orin with 8 SMs"."""
        return f"{self.name} with {self.multiprocessors} SMs" if self.integrated else self.name

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


def load_runtime() -> ModuleType:
    """Imports the CUDA runtime's bindings. Raises BackendMissing with the install line."""
    return _bindings("cuda.bindings.runtime", "cuda.cudart")


def load_driver() -> ModuleType:
    """Imports the CUDA driver's bindings. Raises BackendMissing with the install line."""
    return _bindings("cuda.bindings.driver", "cuda.cuda")


def _bindings(name: str, old_name: str) -> ModuleType:
    """old_name: what cuda-python before 12.6, still found on JetPack 6, calls it."""
    errors: list[Exception] = []
    for candidate in (name, old_name):
        try:
            return importlib.import_module(candidate)
        except (ImportError, OSError) as error:
            raise_interrupt(error)
            errors.append(error)
    # The one that is installed but broken says more than the one that is not there.
    cause = min(errors, key=lambda error: isinstance(error, ModuleNotFoundError))
    raise BackendMissing(
        f"cuda-bindings, which GPU engines need, cannot be imported ({cause})", remedy=_INSTALL
    ) from cause


def probe(device: int = 0) -> GpuInfo:
    """Describes one GPU. Raises BackendMissing if there is no such GPU, no driver or too old a driver."""
    runtime = load_runtime()
    try:
        count = _checked(runtime, runtime.cudaGetDeviceCount(), "count the GPUs")
        known = 0 <= device < count
        properties = _checked(runtime, runtime.cudaGetDeviceProperties(device), "describe the GPU") if known else None
    except (VlfError, RuntimeError) as error:  # without a driver, some versions return a code and some raise
        raise BackendMissing(
            f"no usable NVIDIA GPU here ({error})",
            remedy="install or update the NVIDIA driver until nvidia-smi shows the GPU, or, where cuda-bindings are "
            f"too new for it, {_INSTALL}, or use the CPU: {TABLE['openvino'].install} and backend openvino",
        ) from error
    if properties is None:
        raise BackendMissing(f"there is no GPU {device}: found {count}, numbered from 0")
    return GpuInfo(
        name=properties.name.split(b"\0")[0].decode(errors="replace"),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(properties.totalGlobalMem),
        integrated=bool(properties.integrated),
        multiprocessors=int(properties.multiProcessorCount),
    )


def gpu(device: int = 0) -> GpuInfo | None:
    """As ``probe``, but None if there is no usable GPU; never raises."""
    try:
        return probe(device)
    except BackendMissing:
        return None


class Stream:
    """One stream of work on a GPU, with the memory it works on: ``close`` frees all of it.

    Pointers, events and graphs are plain handles. Everything is only queued: what a copy reads must not change and what
    it writes must not be read before ``synchronize``. All but ``close`` must be called inside ``current``.
    """

    def __init__(self, device: int = 0):
        self._runtime, self._driver = load_runtime(), load_driver()
        self.device = device
        self._device_pointers: list[int] = []
        self._host_pointers: list[int] = []
        self._events: list[Any] = []
        self._graphs: list[Any] = []
        self._stream: Any = None
        with self.current():
            # Non-blocking: work that others put on the default stream must not hold ours up.
            flags = self._runtime.cudaStreamNonBlocking
            self._stream = self._call("create a stream", self._runtime.cudaStreamCreateWithFlags(flags))

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self._stream)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, the GPU's primary context is the calling thread's; after, whatever was before is again.

        CUDA keeps that choice per thread, and programs that use PyCUDA rely on theirs.
        """
        code, before = self._driver.cuCtxGetCurrent()
        self._call(f"select GPU {self.device}", self._runtime.cudaSetDevice(self.device))
        try:
            yield
        finally:
            if int(code) == 0 and int(before) != 0:
                self._driver.cuCtxSetCurrent(before)

    def allocate(self, size_bytes: int) -> int:
        """Pointer to new device memory."""
        pointer = int(self._call(f"allocate {size_bytes} bytes on the GPU", self._runtime.cudaMalloc(size_bytes)))
        self._device_pointers.append(pointer)
        return pointer

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """(size_bytes,) uint8 in page-locked host memory, which copies to and from the GPU at full speed."""
        result = self._runtime.cudaHostAlloc(size_bytes, self._runtime.cudaHostAllocDefault)
        pointer = int(self._call(f"allocate {size_bytes} bytes of page-locked memory", result))
        self._host_pointers.append(pointer)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(pointer))

    def upload(self, pointer: int, pinned: np.ndarray) -> None:
        """Queues a copy of contiguous pinned memory to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(pointer, pinned.ctypes.data, pinned.nbytes, kind)

    def download(self, pinned: np.ndarray, pointer: int) -> None:
        """Queues a copy from the GPU to contiguous pinned memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(pinned.ctypes.data, pointer, pinned.nbytes, kind)

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Queues a copy from one place on the GPU to another."""
        self._copy(target, source, size_bytes, self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def event(self) -> Any:
        """A new event, to ``mark`` a place in the queue with."""
        self._events.append(self._call("create an event", self._runtime.cudaEventCreate()))
        return self._events[-1]

    def mark(self, event: Any) -> None:
        """Queues the noting of the time at this place."""
        self._call("record an event", self._runtime.cudaEventRecord(event, self._stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two marks that were both reached."""
        return float(self._call("read a time", self._runtime.cudaEventElapsedTime(start, end)))

    def wait_for_default(self, event: Any) -> None:
        """Queues a wait, by an event of this stream, for all that is on CUDA's default stream now.

        This stream does not wait for that one by itself, and neither do most others: they are waited for along with it.
        """
        legacy = self._runtime.cudaStream_t(self._runtime.cudaStreamLegacy)
        self._call("record an event", self._runtime.cudaEventRecord(event, legacy))
        self._call("wait for an event", self._runtime.cudaStreamWaitEvent(self._stream, event, 0))

    def capture(self, work: Callable[[], None]) -> Any:
        """A CUDA graph of what ``work`` queues, which is not run now. Raises VlfError if it cannot be captured."""
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with _no_collection():
            graph = self._captured(work, mode)
        try:
            self._graphs.append(self._call("make a graph ready", runtime.cudaGraphInstantiate(graph, 0)))
        finally:
            runtime.cudaGraphDestroy(graph)
        return self._graphs[-1]

    def _captured(self, work: Callable[[], None], mode: Any) -> Any:
        runtime = self._runtime
        self._call("begin a graph", runtime.cudaStreamBeginCapture(self._stream, mode))
        try:
            work()
        except BaseException:
            code, graph = runtime.cudaStreamEndCapture(self._stream)  # the stream must be usable again
            if code == runtime.cudaError_t.cudaSuccess:
                runtime.cudaGraphDestroy(graph)
            raise
        return self._call("capture a graph", runtime.cudaStreamEndCapture(self._stream))

    def launch(self, graph: Any) -> None:
        """Queues the work of a graph, as one piece."""
        self._call("launch a graph", self._runtime.cudaGraphLaunch(graph, self._stream))

    def synchronize(self) -> None:
        """Waits until everything queued is done. Raises VlfError with CUDA's words if any of it failed."""
        self._call("run the queued work", self._runtime.cudaStreamSynchronize(self._stream))

    def settle(self) -> None:
        """As ``synchronize``, before things are freed: does nothing once closed, and only logs what has failed."""
        if self._stream is not None:
            try:
                self.synchronize()
            except VlfError as error:
                log.warning("%s", error)

    def close(self) -> None:
        """Waits for the queued work, then frees all memory and the stream. May be called again."""
        stream, self._stream = self._stream, None
        try:
            with self.current():
                self._free(stream)
        except VlfError as error:  # after a fault on the GPU nothing works any more, and the fault is on its way up
            log.warning("%s", error)

    def _free(self, stream: Any) -> None:
        runtime = self._runtime
        frees: list[tuple[str, Callable[[Any], tuple], Any]] = []
        if stream is not None:
            frees.append(("finish the queued work", runtime.cudaStreamSynchronize, stream))
        frees += [("destroy a graph", runtime.cudaGraphExecDestroy, graph) for graph in self._graphs]
        frees += [("destroy an event", runtime.cudaEventDestroy, event) for event in self._events]
        frees += [("free GPU memory", runtime.cudaFree, pointer) for pointer in self._device_pointers]
        frees += [("free page-locked memory", runtime.cudaFreeHost, pointer) for pointer in self._host_pointers]
        if stream is not None:
            frees.append(("destroy a stream", runtime.cudaStreamDestroy, stream))
        self._device_pointers, self._host_pointers, self._events, self._graphs = [], [], [], []
        for what, function, argument in frees:
            try:
                self._call(what, function(argument))
            except VlfError as error:  # the rest must be freed too, and an error on its way must not be hidden
                log.warning("%s", error)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        result = self._runtime.cudaMemcpyAsync(target, source, size_bytes, kind, self._stream)
        self._call(f"copy {size_bytes} bytes", result)

    def _call(self, what: str, result: tuple[Any, ...]) -> Any:
        return _checked(self._runtime, result, what)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Inside, Python collects no garbage: an engine among it would free memory, which this thread must not do now."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _checked(runtime: ModuleType, result: tuple[Any, ...], what: str) -> Any:
    """The value in what a CUDA call returned, (code, value...). Raises VlfError with CUDA's words."""
    code, *values = result
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise VlfError(f"CUDA could not {what}: {words} (error {int(code)})")
    return values[0] if values else None
