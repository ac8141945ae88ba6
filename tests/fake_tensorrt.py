"""Strict stand-ins for the tensorrt and CUDA runtime modules: they hold only what every supported version has.

Anything else is an AttributeError. Work put on a stream happens at ``cudaStreamSynchronize`` and no sooner, in order,
and fresh memory is poisoned: reading a result too early, or changing an input too early, gives wrong numbers. An
engine is JSON; what it computes is ``expected``.
"""

from __future__ import annotations

import ctypes
import enum
import json
import threading
import weakref
from types import ModuleType, SimpleNamespace

import numpy as np

POISON = 0xCD
DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32"}


def spec(inputs: dict, outputs: dict, *, sm=("8.6",), profile=(1, 1, 4), **more) -> bytes:
    """ONNX as well as engine: {name: (dtype name, shape)}, -1 for N."""
    return b"vtrt" + json.dumps({"inputs": inputs, "outputs": outputs, "sm": sm, "profile": profile, **more}).encode()


def expected(array: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """(N, ...) -> (N, *shape[1:]): mean of each sample plus 0, 1, 2, ..."""
    ramp = np.arange(np.prod(shape[1:])).reshape(shape[1:])
    return np.stack([sample.astype(np.float64).mean() + ramp for sample in array]).astype(dtype)


class CudaError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35


MemcpyKind = enum.IntEnum("MemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})


class FakeCuda:
    """Module cuda.bindings.runtime. ``calls`` are the names of all calls, ``live()`` counts what was never freed."""

    cudaError_t = CudaError
    cudaMemcpyKind = MemcpyKind
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(self, sm: str = "8.6", devices: int = 1, driver: bool = True, memory_bytes: int = 1 << 24):
        self.sm, self._devices, self._driver, self._memory_bytes = sm, devices, driver, memory_bytes
        self._device: dict[int, bytearray] = {}
        self._host: dict[int, ctypes.Array] = {}
        self._streams: dict[int, list] = {}
        self._next = 0x10000
        self._thread = threading.local()
        self.contexts: weakref.WeakSet = weakref.WeakSet()
        self.calls: list[str] = []

    def live(self) -> tuple[int, int, int]:
        return len(self._device), len(self._host), len(self._streams)

    def _called(self, name: str, needs_device: bool = True) -> None:
        self.calls.append(name)
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
        self._streams[int(stream)].append(work)

    def cudaGetErrorString(self, code):
        return CudaError.cudaSuccess, CudaError(code).name.encode()

    def cudaGetDeviceCount(self):
        self._called("cudaGetDeviceCount", needs_device=False)
        return (CudaError.cudaSuccess, self._devices) if self._driver else (CudaError.cudaErrorInsufficientDriver, None)

    def cudaGetDeviceProperties(self, device):
        self._called("cudaGetDeviceProperties", needs_device=False)
        major, minor = map(int, self.sm.split("."))
        facts = SimpleNamespace(name=b"Toy GPU\0\0", major=major, minor=minor, totalGlobalMem=1 << 30, integrated=0)
        return CudaError.cudaSuccess, facts

    def cudaSetDevice(self, device):
        self._called("cudaSetDevice", needs_device=False)
        self._thread.device = device
        return (CudaError.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags):
        self._called("cudaStreamCreateWithFlags")
        pointer = self._pointer()
        self._streams[pointer] = []
        return CudaError.cudaSuccess, pointer

    def cudaStreamSynchronize(self, stream):
        self._called("cudaStreamSynchronize")
        work, self._streams[stream] = self._streams[stream], []
        for step in work:
            step()
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
        self._called(MemcpyKind(kind).name)
        to, of = self.memory(target, size_bytes), self.memory(source, size_bytes)
        for pointer, on_device in ((target, kind == 1), (source, kind == 2)):
            if on_device != any(base <= pointer < base + len(block) for base, block in self._device.items()):
                return (CudaError.cudaErrorInvalidValue,)

        def copy():
            to[:] = of

        self.enqueue(stream, copy)
        return (CudaError.cudaSuccess,)


def fake_tensorrt(cuda: FakeCuda, version: str = "10.3.0", rtx: bool = False):
    """Module tensorrt of that version, or tensorrt_rtx."""
    module = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = version
    strong = 1 if version.startswith("10.") else 0
    module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": strong})
    module.TensorIOMode = enum.IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
    module.MemoryPoolType = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0})
    module.DataType = enum.IntEnum("DataType", {name: number for number, name in enumerate(DTYPES)})
    module.ILogger = ILogger
    module.Runtime = lambda logger: Runtime(module, cuda, logger)
    module.Builder = lambda logger: Builder(module, logger)
    module.OnnxParser = OnnxParser
    module.built = []
    if rtx:
        capabilities = {f"SM{sm}": sm for sm in (75, 80, 86, 89, 120, 121)}
        module.ComputeCapability = enum.IntEnum("ComputeCapability", {"NONE": 0, "CURRENT": 1, **capabilities})
    return module


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        self.ready = True  # as in the real one, a subclass that forgets to call this cannot be used


class Runtime:
    def __init__(self, module, cuda, logger):
        assert logger.ready
        self._module, self._cuda, self._logger = module, cuda, logger

    def deserialize_cuda_engine(self, data):
        self._logger.log(ILogger.INFO, "Loaded engine size: 0 MiB")
        if data[:4] != b"vtrt":
            return self._logger.log(ILogger.ERROR, "magicTag assertion failed")
        facts = json.loads(data[4:])
        if self._cuda.sm not in facts["sm"]:
            words = f"expecting compute {facts['sm'][0]} got {self._cuda.sm}, please rebuild"
            return self._logger.log(ILogger.ERROR, words)
        return CudaEngine(self._module, self._cuda, self._logger, facts)


class CudaEngine:
    def __init__(self, module, cuda, logger, facts):
        self._module, self._cuda, self._logger, self._facts = module, cuda, logger, facts
        self._tensors = {**facts["inputs"], **facts["outputs"]}
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return self._module.TensorIOMode.INPUT if name in self._facts["inputs"] else self._module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._module.DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name):
        return tuple(self._tensors[name][1])

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0 and name in self._facts["inputs"]
        rest = self._tensors[name][1][1:]
        return [(batch, *rest) for batch in self._facts["profile"]]

    def create_execution_context(self):
        if self._facts.get("no_context"):
            return self._logger.log(ILogger.ERROR, "no kernel image for this GPU")
        context = ExecutionContext(self._cuda, self._logger, self._facts)
        self._cuda.contexts.add(context)
        return context


class ExecutionContext:
    def __init__(self, cuda, logger, facts):
        self._cuda, self._logger, self._facts = cuda, logger, facts
        self._batch = {name: shape[0] for name, (_, shape) in facts["inputs"].items() if shape[0] > 0}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name, shape):
        _, want = self._facts["inputs"][name]
        low, _, high = self._facts["profile"] if want[0] < 0 else (want[0],) * 3
        if list(shape[1:]) != list(want[1:]) or not low <= shape[0] <= high:
            self._logger.log(ILogger.ERROR, f"shape {shape} is outside the profile")
            return False
        self._batch[name] = shape[0]
        return True

    def get_tensor_shape(self, name):
        _, shape = {**self._facts["inputs"], **self._facts["outputs"]}[name]
        batch = next(iter(self._batch.values()), -1)
        return (batch if shape[0] < 0 else shape[0], *shape[1:])

    def set_tensor_address(self, name, pointer):
        dtype, _ = {**self._facts["inputs"], **self._facts["outputs"]}[name]
        self._cuda.memory(pointer, np.dtype(DTYPES[dtype]).itemsize * int(np.prod(self.get_tensor_shape(name))))
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream_handle):
        self._cuda.calls.append("execute_async_v3")
        if self._facts.get("fails"):
            self._logger.log(ILogger.ERROR, "enqueue failed")
            return False
        (source, (kind, _)), *_ = self._facts["inputs"].items()
        given = self._view(source, kind)
        results = [(self._view(name, kind), DTYPES[kind]) for name, (kind, _) in self._facts["outputs"].items()]

        def kernel():
            for result, dtype in results:
                result[:] = expected(given, result.shape, dtype)

        self._cuda.enqueue(stream_handle, kernel)
        return True

    def _view(self, name, kind):
        shape, dtype = self.get_tensor_shape(name), np.dtype(DTYPES[kind])
        block = self._cuda.memory(self.addresses[name], int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(block, dtype).reshape(shape)


class Builder:
    def __init__(self, module, logger):
        self._module, self._logger = module, logger

    def create_network(self, flags):
        strong = 1 << int(self._module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert flags == strong, f"flags {flags:#b}: the other bits mean other things in this version"
        return SimpleNamespace(facts=None, num_inputs=0)

    def create_builder_config(self):
        return BuilderConfig(rtx=hasattr(self._module, "ComputeCapability"))

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if network.facts.get("fails"):
            return self._logger.log(ILogger.ERROR, "no implementation for node bad")
        self._module.built.append(config)
        return memoryview(b"vtrt" + json.dumps({**network.facts, "sm": config.sm()}).encode())


class BuilderConfig:
    def __init__(self, rtx):
        self._rtx, self._sm, self.profiles, self.limits = rtx, {}, [], {}
        if rtx:
            self.num_compute_capabilities = 0
            self.set_compute_capability = lambda capability, index: self._sm.update({index: int(capability)})

    def sm(self):
        if self._rtx:
            assert sorted(self._sm) == list(range(self.num_compute_capabilities))
            return [f"{sm // 10}.{sm % 10}" for sm in self._sm.values()]
        return ["8.6"]

    def set_memory_pool_limit(self, pool, size_bytes):
        self.limits[pool.name] = size_bytes

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, smallest, best, largest):
        self.shapes[name] = (smallest, best, largest)


class OnnxParser:
    def __init__(self, network, logger):
        self._network = network
        self.num_errors = 0

    def parse(self, data):
        if data[:4] != b"vtrt":
            self.num_errors = 2
            return False
        facts = json.loads(data[4:])
        inputs = [SimpleNamespace(name=name, shape=tuple(shape)) for name, (_, shape) in facts["inputs"].items()]
        self._network.facts, self._network.num_inputs = facts, len(inputs)
        self._network.get_input = inputs.__getitem__
        return True

    def get_error(self, index):
        return ("Failed to parse the model.", "In node 3 with name: bad")[index]
