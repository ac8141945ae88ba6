"""The few CUDA calls that an engine needs, through NVIDIA's cuda-bindings; every return code is checked."""

from __future__ import annotations

import ctypes
import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import BackendMissing, VlfError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuInfo:
    """One CUDA device. compute_capability: such as "8.6". integrated: it shares its memory with the CPU."""

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


def load_runtime() -> ModuleType:
    """Imports the CUDA runtime's bindings. Raises BackendMissing with the install line."""
    # cuda-python before 12.6, still found on JetPack 6, has them under the second name.
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    raise BackendMissing(
        "cuda-bindings, which GPU engines need, cannot be imported; install it with: pip install cuda-bindings"
        " (on JetPack 6: pip install 'cuda-bindings<13')"
    )


def probe(device: int = 0) -> GpuInfo:
    """Describes one GPU. Raises BackendMissing if there is no such GPU, no driver or too old a driver."""
    runtime = load_runtime()
    try:
        count = _checked(runtime, runtime.cudaGetDeviceCount(), "count the GPUs")
        known = 0 <= device < count
        properties = _checked(runtime, runtime.cudaGetDeviceProperties(device), "describe the GPU") if known else None
    except (VlfError, RuntimeError) as error:  # without a driver, some versions return a code and some raise
        raise BackendMissing(
            f"no usable NVIDIA GPU here ({error}); install or update the NVIDIA driver until nvidia-smi shows the GPU"
            " (on JetPack 6: pip install 'cuda-bindings<13'), or use the CPU: pip install 'vlf_edge[cpu]' and backend"
            " openvino"
        ) from error
    if properties is None:
        raise BackendMissing(f"there is no GPU {device}: found {count}, numbered from 0")
    return GpuInfo(
        name=properties.name.split(b"\0")[0].decode(errors="replace"),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(properties.totalGlobalMem),
        integrated=bool(properties.integrated),
    )


def gpu(device: int = 0) -> GpuInfo | None:
    """As ``probe``, but None if there is no usable GPU; never raises."""
    try:
        return probe(device)
    except BackendMissing:
        return None


class Stream:
    """One stream of work on a GPU, with the memory it works on: ``close`` frees all of it.

    Pointers are plain integers. Copies are only queued: what they read must not change and what they write must not
    be read before ``synchronize``.
    """

    def __init__(self, device: int = 0):
        self._runtime = load_runtime()
        self._device = device
        self._device_pointers: list[int] = []
        self._host_pointers: list[int] = []
        self._stream: Any = None
        self.use()
        # Non-blocking: work that others put on the default stream must not hold ours up.
        flags = self._runtime.cudaStreamNonBlocking
        self._stream = self._call("create a stream", self._runtime.cudaStreamCreateWithFlags(flags))

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self._stream)

    def use(self) -> None:
        """Makes the GPU current in the calling thread; CUDA keeps that choice per thread."""
        self._call(f"select GPU {self._device}", self._runtime.cudaSetDevice(self._device))

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

    def synchronize(self) -> None:
        """Waits until everything queued is done. Raises VlfError with CUDA's words if any of it failed."""
        self._call("run the queued work", self._runtime.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Waits for the queued work, then frees all memory and the stream. May be called again."""
        runtime, stream, self._stream = self._runtime, self._stream, None
        frees = [("select the GPU", runtime.cudaSetDevice, self._device)]
        if stream is not None:
            frees.append(("finish the queued work", runtime.cudaStreamSynchronize, stream))
        frees += [("free GPU memory", runtime.cudaFree, pointer) for pointer in self._device_pointers]
        frees += [("free page-locked memory", runtime.cudaFreeHost, pointer) for pointer in self._host_pointers]
        if stream is not None:
            frees.append(("destroy a stream", runtime.cudaStreamDestroy, stream))
        self._device_pointers, self._host_pointers = [], []
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


def _checked(runtime: ModuleType, result: tuple[Any, ...], what: str) -> Any:
    """The value in what a CUDA call returned, (code, value...). Raises VlfError with CUDA's words."""
    code, *values = result
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise VlfError(f"CUDA could not {what}: {words} (error {int(code)})")
    return values[0] if values else None
