"""A strict stand-in for the CUDA runtime's and driver's bindings: it holds what vlf_edge calls and nothing else.

Work put on a stream happens at ``cudaStreamSynchronize`` and no sooner, in order, and fresh memory is poisoned: reading
a result too early, or changing an input too early, gives wrong numbers.
"""

from __future__ import annotations

import ctypes
import enum
import threading
import weakref
from types import SimpleNamespace

POISON = 0xCD
PRIMARY = 1000


class CudaError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureUnsupported = 900


MemcpyKind = enum.IntEnum(
    "MemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2, "cudaMemcpyDeviceToDevice": 3}
)
CaptureMode = enum.IntEnum("CaptureMode", {"cudaStreamCaptureModeGlobal": 0, "cudaStreamCaptureModeThreadLocal": 1})


class FakeCuda:
    """Module cuda.bindings.runtime. ``calls`` are the names of all calls, ``live()`` counts what was never freed."""

    cudaError_t = CudaError
    cudaMemcpyKind = MemcpyKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaStreamLegacy = 1
    cudaStream_t = int

    def __init__(self, sm: str = "8.6", devices: int = 1, driver: bool = True, memory_bytes: int = 1 << 24):
        self.sm, self._devices, self._driver, self._memory_bytes = sm, devices, driver, memory_bytes
        self._device: dict[int, bytearray] = {}
        self._host: dict[int, ctypes.Array] = {}
        self._streams: dict[int, list] = {self.cudaStreamLegacy: []}
        self._captures: dict[int, list] = {}
        self._graphs: dict[int, list] = {}
        self._events: dict[int, float | None] = {}
        self._clock_ms = 0.0
        self._next = 0x10000
        self._thread = threading.local()
        self.contexts: weakref.WeakSet = weakref.WeakSet()
        self.calls: list[str] = []

    def live(self) -> tuple[int, int, int]:
        """Allocations on the device, on the host, and streams with their graphs and events."""
        return len(self._device), len(self._host), len(self._streams) - 1 + len(self._graphs) + len(self._events)

    def _called(self, name: str, needs_device: bool = True, capturable: bool = False) -> None:
        self.calls.append(name)
        if self._captures and not capturable:
            raise AssertionError(f"{name} while a graph is captured")
        if needs_device and not hasattr(self._thread, "device"):
            raise AssertionError(f"{name} in a thread that did not select its GPU")

    def _pointer(self) -> int:
        self._next += 1 << 24
        return self._next

    def memory(self, pointer: int, size_bytes: int) -> memoryview:
        """Device memory, or host memory that was page-locked; the pointer may lie inside an allocation."""
        for base, block in {**self._device, **self._host}.items():
            if base <= pointer and pointer + size_bytes <= base + len(block):
                return memoryview(block).cast("B")[pointer - base : pointer - base + size_bytes]
        raise AssertionError(f"{size_bytes} bytes at {pointer:#x} are neither device memory nor page-locked memory")

    def enqueue(self, stream: int, work) -> None:
        self._captures.get(int(stream), self._streams[int(stream)]).append(work)

    def capturing(self, stream: int) -> bool:
        return int(stream) in self._captures

    def cudaGetErrorString(self, code):
        return CudaError.cudaSuccess, CudaError(code).name.encode()

    def cudaGetDeviceCount(self):
        self._called("cudaGetDeviceCount", needs_device=False)
        return (CudaError.cudaSuccess, self._devices) if self._driver else (CudaError.cudaErrorInsufficientDriver, None)

    def cudaGetDeviceProperties(self, device):
        self._called("cudaGetDeviceProperties", needs_device=False)
        major, minor = map(int, self.sm.split("."))
        facts = SimpleNamespace(
            name=b"Toy GPU\0\0",
            major=major,
            minor=minor,
            totalGlobalMem=1 << 30,
            integrated=0,
            multiProcessorCount=4,
        )
        return CudaError.cudaSuccess, facts

    def cudaSetDevice(self, device):
        self._called("cudaSetDevice", needs_device=False)
        self._thread.device, self._thread.context = device, PRIMARY
        return (CudaError.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags):
        self._called("cudaStreamCreateWithFlags")
        pointer = self._pointer()
        self._streams[pointer] = []
        return CudaError.cudaSuccess, pointer

    def cudaStreamSynchronize(self, stream):
        self._called("cudaStreamSynchronize")
        self._run(stream)
        return (CudaError.cudaSuccess,)

    def _run(self, stream):
        work, self._streams[stream] = self._streams[stream], []
        for step in work:
            step()

    def busy(self) -> bool:
        """Whether anything is queued and not run yet."""
        return any(self._streams.values())

    def cudaStreamWaitEvent(self, stream, event, flags):
        self._called("cudaStreamWaitEvent")
        on_default = self._events[event] is None and self._streams[self.cudaStreamLegacy]
        self.enqueue(stream, lambda: self._run(self.cudaStreamLegacy) if on_default else None)
        return (CudaError.cudaSuccess,)

    def cudaStreamDestroy(self, stream):
        self._called("cudaStreamDestroy")
        return (CudaError.cudaErrorInvalidValue if self._streams.pop(stream) else CudaError.cudaSuccess,)

    def cudaMalloc(self, size_bytes):
        self._called("cudaMalloc")
        if sum(map(len, self._device.values())) + size_bytes > self._memory_bytes:
            return CudaError.cudaErrorMemoryAllocation, 0
        pointer = self._pointer()
        self._device[pointer] = bytearray([POISON]) * size_bytes
        return CudaError.cudaSuccess, pointer

    def cudaFree(self, pointer):
        self._called("cudaFree")
        if any(pointer in context.addresses.values() for context in self.contexts):
            raise AssertionError("memory was freed while a context uses it")
        del self._device[pointer]
        return (CudaError.cudaSuccess,)

    def cudaHostAlloc(self, size_bytes, flags):
        self._called("cudaHostAlloc")
        block = (ctypes.c_uint8 * size_bytes)(*([POISON] * size_bytes))
        self._host[ctypes.addressof(block)] = block
        return CudaError.cudaSuccess, ctypes.addressof(block)

    def cudaFreeHost(self, pointer):
        self._called("cudaFreeHost")
        del self._host[pointer]
        return (CudaError.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, size_bytes, kind, stream):
        self._called(MemcpyKind(kind).name, capturable=True)
        to, of = self.memory(target, size_bytes), self.memory(source, size_bytes)
        for pointer, on_device in ((target, kind != 2), (source, kind != 1)):
            if on_device != any(base <= pointer < base + len(block) for base, block in self._device.items()):
                return (CudaError.cudaErrorInvalidValue,)

        def copy():
            to[:] = of

        self.enqueue(stream, copy)
        return (CudaError.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        self._called("cudaStreamBeginCapture")
        assert mode is CaptureMode.cudaStreamCaptureModeThreadLocal and not self._streams[stream]
        self._captures[stream] = []
        return (CudaError.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        self._called("cudaStreamEndCapture", capturable=True)
        pointer, work = self._pointer(), self._captures.pop(stream)
        if not work:
            return CudaError.cudaErrorStreamCaptureUnsupported, 0
        self._graphs[pointer] = work
        return CudaError.cudaSuccess, pointer

    def cudaGraphInstantiate(self, graph, flags):
        self._called("cudaGraphInstantiate")
        pointer = self._pointer()
        self._graphs[pointer] = list(self._graphs[graph])
        return CudaError.cudaSuccess, pointer

    def cudaGraphDestroy(self, graph):
        self._called("cudaGraphDestroy")
        del self._graphs[graph]
        return (CudaError.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph, stream):
        self._called("cudaGraphLaunch")
        self._streams[stream].extend(self._graphs[graph])
        return (CudaError.cudaSuccess,)

    def cudaEventCreate(self):
        self._called("cudaEventCreate")
        pointer = self._pointer()
        self._events[pointer] = None
        return CudaError.cudaSuccess, pointer

    def cudaEventRecord(self, event, stream):
        self._called("cudaEventRecord")

        def note():
            self._clock_ms += 1.0
            self._events[event] = self._clock_ms

        self._events[event] = None
        self.enqueue(stream, note)
        return (CudaError.cudaSuccess,)

    def cudaEventElapsedTime(self, start, end):
        self._called("cudaEventElapsedTime")
        if None in (self._events[start], self._events[end]):
            return CudaError.cudaErrorInvalidValue, 0.0
        return CudaError.cudaSuccess, self._events[end] - self._events[start]

    def cudaEventDestroy(self, event):
        self._called("cudaEventDestroy")
        del self._events[event]
        return (CudaError.cudaSuccess,)


class FakeDriver:
    """Module cuda.bindings.driver: contexts are numbers; selecting a device makes its primary one, 1000, current."""

    def __init__(self, cuda: FakeCuda):
        self._thread = cuda._thread

    def cuCtxGetCurrent(self):
        return 0, getattr(self._thread, "context", 0)

    def cuCtxSetCurrent(self, context):
        self._thread.context = context
        if context != PRIMARY:
            self._thread.__dict__.pop("device", None)
        return (0,)
