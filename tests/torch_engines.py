"""TensorRT played by PyTorch: engines whose kernels PyTorch runs on the stream and at the addresses it is given.

With a GPU they are real work on a real stream, so that all of the CUDA path but the library itself is tried; on
``FakeCuda`` the same engines run on the CPU. An engine gives, for each sample, its mean plus 0, 1, 2, ...: a copy that
came late, a ring that is a step off or a graph that replays old memory gives another number.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from math import prod
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from fake_cuda import FakeCuda
from torch import Tensor

DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}
FRAME = {"inputs": {"image": ("UINT8", (-1, 32, 32, 3))}, "outputs": {"tokens": ("HALF", (-1, 4, 6))}}
CLIP = {"inputs": {"tokens": ("HALF", (-1, 4, 4, 6))}, "outputs": {"logits": ("FLOAT", (-1, 5))}}
LARGEST = 8


class RealGpu:
    """The first GPU, through PyTorch."""

    @staticmethod
    def view(pointer: int, shape: tuple[int, ...], dtype: str) -> Tensor:
        about = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (pointer, False), "version": 3}
        about |= {"strides": None, "stream": None}
        return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=about), device="cuda")

    @staticmethod
    def queue(handle: int, work: Callable[[], None]) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(handle)):
            work()


class FakeGpu:
    """The memory and streams of a FakeCuda."""

    def __init__(self, cuda: FakeCuda):
        self._cuda = cuda

    def view(self, pointer: int, shape: tuple[int, ...], dtype: str) -> Tensor:
        memory = self._cuda.memory(pointer, prod(shape) * np.dtype(dtype).itemsize)
        return torch.frombuffer(memory, dtype=getattr(torch, dtype)).reshape(shape)

    def queue(self, handle: int, work: Callable[[], None]) -> None:
        self._cuda.enqueue(handle, work)


def library(gpu: RealGpu | FakeGpu) -> ModuleType:
    """Module tensorrt, with what vlf_edge uses to run an engine of one profile."""
    module = ModuleType("tensorrt")
    module.__version__ = "10.16.0"
    module.TensorIOMode = enum.IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
    module.DataType = enum.IntEnum("DataType", {name: number for number, name in enumerate(DTYPES)})
    levels = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
    module.ILogger = type("ILogger", (), {**levels, "__init__": lambda self: None})
    module.Runtime = lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: Engine(module, gpu, data))
    return module


def engine_bytes(facts: dict) -> bytes:
    return json.dumps(facts).encode()


class Engine:
    num_optimization_profiles = 1

    def __init__(self, module: ModuleType, gpu: RealGpu | FakeGpu, data: bytes):
        facts = json.loads(data)
        self._module, self._gpu, self._inputs = module, gpu, facts["inputs"]
        self.tensors = {**facts["inputs"], **facts["outputs"]}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str):
        return self._module.TensorIOMode.INPUT if name in self._inputs else self._module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str):
        return self._module.DataType[self.tensors[name][0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name][1])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in (1, 1, LARGEST)]

    def create_execution_context(self) -> ExecutionContext:
        return ExecutionContext(self, self._gpu)


class ExecutionContext:
    def __init__(self, engine: Engine, gpu: RealGpu | FakeGpu):
        self._engine, self._gpu = engine, gpu
        self._source, self._target = engine.tensors
        self._batch, self._addresses, self._scratch = -1, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        return tuple(shape[1:]) == self._engine.get_tensor_shape(name)[1:] and 1 <= shape[0] <= LARGEST

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._batch, *self._engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, handle: int) -> bool:
        given, result = self._view(self._source), self._view(self._target)
        self._gpu.queue(handle, lambda: self._kernels(given, result))
        return True

    def _kernels(self, given: Tensor, result: Tensor) -> None:
        """Only into memory that the first run took, as TensorRT does: a graph can allocate nothing."""
        batch, size = len(given), result[0].numel()
        if batch not in self._scratch:
            new = {"device": given.device, "dtype": torch.float32}
            ramp = torch.arange(size, **new)[None]
            wide, mean = torch.empty(batch, given[0].numel(), **new), torch.empty(batch, 1, **new)
            self._scratch[batch] = (wide, mean, ramp, ramp.repeat(batch, 1))
        wide, mean, ramp, out = self._scratch[batch]
        wide.copy_(given.reshape(batch, -1))
        torch.mean(wide, 1, keepdim=True, out=mean)
        torch.add(mean, ramp, out=out)
        result.copy_(out.reshape(result.shape))

    def _view(self, name: str) -> Tensor:
        return self._gpu.view(self._addresses[name], self.get_tensor_shape(name), DTYPES[self._engine.tensors[name][0]])


def expected_tokens(image: np.ndarray) -> np.ndarray:
    """(4, 6) float16 of an image (32, 32, 3) uint8."""
    return (image.astype(np.float32).mean() + np.arange(24, dtype=np.float32)).astype(np.float16).reshape(4, 6)


def expected_logits(window: np.ndarray) -> np.ndarray:
    """(5,) float32 of the images (4, 32, 32, 3) uint8 of a window."""
    tokens = np.stack([expected_tokens(image) for image in window])
    return tokens.astype(np.float32).mean() + np.arange(5, dtype=np.float32)


def images(seed: int, count: int) -> np.ndarray:
    """(count, 32, 32, 3) uint8 of different brightness, so that no window is like the one before."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return noise // (1 + np.arange(count) % 5)[:, None, None, None].astype(np.uint8)
