"""Strict stand-ins for the modules tensorrt and tensorrt_rtx, of any version in tensorrt_api.json.

Every object has the members that the table gives its class in that version and no others: anything else is an
AttributeError, as on the machine that has that version. An engine is JSON; what it computes is ``expected``, summed up
over its inputs.
"""

from __future__ import annotations

import enum
import json
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "BF16": None, "FP8": None}
API = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text())["classes"]
VERSIONS = ("10.3", "10.13", "10.16", "11.4", "rtx-1.7")


def members(kind: str, version: str) -> set[str]:
    """What a class has in a version."""
    return {name for versions, names in API[kind].items() if version in versions.split() for name in names}


class Strict:
    """An object seen through the table: only the members of its class in its version can be read or written."""

    def __init__(self, kind: str, version: str, target: Any):
        vars(self).update(_kind=kind, _members=members(kind, version), _version=version, _target=target)

    def _check(self, name: str) -> None:
        if name not in self._members:
            raise AttributeError(f"{self._kind} of {self._version} has no {name}")

    def __getattr__(self, name: str) -> Any:
        self._check(name)
        return getattr(self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(name)
        setattr(self._target, name, value)


def spec(inputs: dict, outputs: dict, *, sm=("8.6",), profiles=((1, 1, 4),), **more) -> bytes:
    """ONNX as well as engine: {name: (dtype name, shape)}, -1 for N. profiles: smallest, best and largest N of each."""
    facts = {"inputs": inputs, "outputs": outputs, "sm": sm, "profiles": profiles, **more}
    return b"vtrt" + json.dumps(facts).encode()


def expected(array: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """(N, ...) -> (N, *shape[1:]): a mean of each sample that depends on the order in it, plus 0, 1, 2, ..."""
    ramp = np.arange(np.prod(shape[1:])).reshape(shape[1:])
    weights = 1 + np.arange(array[0].size)
    return np.stack([np.average(sample.ravel(), weights=weights) + ramp for sample in array]).astype(dtype)


def fake_tensorrt(cuda: FakeCuda, version: str = "10.3.0", rtx: bool = False):
    """Module tensorrt of that version, or tensorrt_rtx."""
    column = "rtx-1.7" if rtx else version.rpartition(".")[0]
    assert column in VERSIONS, f"tensorrt_api.json knows {VERSIONS}"
    module = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = version
    module._ends = []  # kinds of objects, in the order in which the last reference to each went

    def strict(kind, target):
        made = Strict(kind, column, target)
        weakref.finalize(made, module._ends.append, kind).atexit = False
        return made

    module._strict = strict
    strong = 1 if version.startswith("10.") else 0
    module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": strong})
    module.TensorIOMode = enum.IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
    module.MemoryPoolType = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0})
    module.DataType = enum.IntEnum("DataType", {name: number for number, name in enumerate(DTYPES)})
    strategies = {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}
    module.ExecutionContextAllocationStrategy = enum.IntEnum("Allocation", strategies)
    module.ILogger = ILogger
    module.Runtime = lambda logger: _start(module, "Runtime", logger, lambda: Runtime(module, cuda, logger))
    module.Builder = lambda logger: _start(module, "Builder", logger, lambda: Builder(module, logger))
    module._no_cuda = ""
    module.OnnxParser = lambda network, logger: module._strict("OnnxParser", OnnxParser(network))
    module._built = []
    if rtx:
        kernels = {"LAZY": 0, "EAGER": 1, "NONE": 2}
        module.DynamicShapesKernelSpecializationStrategy = enum.IntEnum("Specialization", kernels)
        module.CudaGraphStrategy = enum.IntEnum("CudaGraphStrategy", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})
        capabilities = {f"SM{sm}": sm for sm in (75, 80, 86, 89, 120, 121)}
        module.ComputeCapability = enum.IntEnum("ComputeCapability", {"NONE": 0, "CURRENT": 1, **capabilities})
    return module


def _start(module, kind, logger, make):
    """What the bindings do where CUDA cannot start: nearly always they raise, and once they gave a broken object."""
    if module._no_cuda:
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
    if module._no_cuda == "give nothing":
        raise TypeError(f"{module.__name__}.{kind}.__init__(): factory function returned nullptr")
    return Crashes() if module._no_cuda else module._strict(kind, make())


class Crashes:
    def __getattr__(self, name):
        raise AssertionError(f"{name}: the process would have crashed here")


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
        return self._module._strict("ICudaEngine", CudaEngine(self._module, self._cuda, self._logger, facts))


class CudaEngine:
    def __init__(self, module, cuda, logger, facts):
        self._module, self._cuda, self._logger, self._facts = module, cuda, logger, facts
        self._tensors = {**facts["inputs"], **facts["outputs"]}
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = len(facts["profiles"])

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return self._module.TensorIOMode.INPUT if name in self._facts["inputs"] else self._module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._module.DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name):
        return tuple(self._tensors[name][1])

    def get_tensor_profile_shape(self, name, profile_index):
        assert name in self._facts["inputs"]
        rest = self._tensors[name][1][1:]
        return [(batch, *rest) for batch in self._facts["profiles"][profile_index]]

    def create_runtime_config(self):
        return self._module._strict("IRuntimeConfig", RuntimeConfig(self._module))

    def create_execution_context(self, given=0):
        """given: a runtime config, or how memory is allocated."""
        why = self._facts.get("no_context")
        if why:
            return self._logger.log(ILogger.ERROR, "no kernel image for this GPU" if why is True else why)
        config, strategy = (given._target, 0) if isinstance(given, Strict) else (None, given)
        context = ExecutionContext(self._cuda, self._logger, self._facts, config, strategy)
        self._cuda.contexts.add(context)
        return self._module._strict("IExecutionContext", context)


class RuntimeConfig:
    cuda_graph_strategy, dynamic_shapes_kernel_specialization_strategy, cache = 0, 0, None

    def __init__(self, module):
        self._module = module

    def create_runtime_cache(self):
        return self._module._strict("IRuntimeCache", RuntimeCache(self._module))

    def set_runtime_cache(self, cache):
        self.cache = cache._target
        return True


class RuntimeCache:
    """Kernels are names; of another version, they are refused. ``compiled`` counts those that were not found."""

    def __init__(self, module):
        self._head, self.kernels, self.compiled = f"kernels of {module.__version__}:", set(), 0

    def deserialize(self, blob):
        text = bytes(blob).decode(errors="replace")
        if not text.startswith(self._head):
            return False
        self.kernels = set(filter(None, text.removeprefix(self._head).split(",")))
        return True

    def serialize(self):
        return memoryview((self._head + ",".join(sorted(self.kernels))).encode())

    def compile(self, kernel):
        self.compiled += kernel not in self.kernels
        self.kernels.add(kernel)


class ExecutionContext:
    """reserved: the batch that it has memory for."""

    def __init__(self, cuda, logger, facts, config, strategy):
        self._cuda, self._logger, self._facts, self._config = cuda, logger, facts, config
        self._strategy, self._profile = strategy, facts["profiles"][0]
        self.reserved = max(profile[2] for profile in facts["profiles"])
        self._warm, self._layout = False, 0
        self._batch = {name: shape[0] for name, (_, shape) in facts["inputs"].items() if shape[0] > 0}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index, stream_handle):
        assert not self._warm, "before anything runs"
        self._profile = self._facts["profiles"][index]
        self._batch = {name: shape[0] for name, (_, shape) in self._facts["inputs"].items() if shape[0] > 0}
        self._cuda.enqueue(stream_handle, lambda: None)
        if self._strategy == 1:
            self.reserved = self._profile[2]
        return True

    def set_input_shape(self, name, shape):
        _, want = self._facts["inputs"][name]
        low, _, high = self._profile if want[0] < 0 else (want[0],) * 3
        if list(shape[1:]) != list(want[1:]) or not low <= shape[0] <= high:
            self._logger.log(ILogger.ERROR, f"shape {shape} is outside the profile")
            return False
        if self._batch.get(name) != shape[0]:
            self._batch[name] = shape[0]
            self._layout += 1  # its inner memory moves: what a graph noted is no longer true
        return True

    def get_tensor_shape(self, name):
        _, shape = {**self._facts["inputs"], **self._facts["outputs"]}[name]
        batch = next(iter(self._batch.values()), -1)
        return (batch if shape[0] < 0 else shape[0], *shape[1:])

    def set_tensor_address(self, name, pointer):
        dtype, _ = {**self._facts["inputs"], **self._facts["outputs"]}[name]
        self._cuda.memory(pointer, np.dtype(DTYPES[dtype]).itemsize * int(np.prod(self.get_tensor_shape(name))))
        self.addresses[name] = pointer
        self._layout += 1
        return True

    def execute_async_v3(self, stream_handle):
        self._cuda.calls.append("execute_async_v3")
        if self._facts.get("fails"):
            self._logger.log(ILogger.ERROR, "enqueue failed")
            return False
        if self._cuda.capturing(stream_handle) and not self._warm:
            self._logger.log(ILogger.ERROR, "the first run allocates, which a capture does not allow")
            return False
        self._warm, layout = True, self._layout
        if self._config is not None:
            self._config.cache.compile("-".join(map(str, self._batch.values())))
        given = [self._view(name, kind) for name, (kind, _) in self._facts["inputs"].items()]
        results = [(self._view(name, kind), DTYPES[kind]) for name, (kind, _) in self._facts["outputs"].items()]

        captured = self._cuda.capturing(stream_handle)

        def kernel():
            assert not captured or layout == self._layout, "a graph runs after its context has moved its memory"
            for result, dtype in results:
                result[:] = sum(expected(array, result.shape, dtype) for array in given)

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
        return self._module._strict("INetworkDefinition", SimpleNamespace(facts=None, num_inputs=0))

    def create_builder_config(self):
        config = BuilderConfig(self._module, rtx=hasattr(self._module, "ComputeCapability"))
        return self._module._strict("IBuilderConfig", config)

    def create_optimization_profile(self):
        return self._module._strict("IOptimizationProfile", Profile())

    def build_serialized_network(self, network, config):
        network, config = network._target, config._target
        if network.facts.get("fails"):
            return self._logger.log(ILogger.ERROR, "no implementation for node bad")
        self._module._built.append(config)
        if config.timing is not None:
            config.timing.timed.add("tactics")
        made = {**network.facts, "sm": config.sm()}
        if config.profiles:
            made["profiles"] = [[shape[0] for shape in next(iter(shapes.values()))] for shapes in config.profiles]
        return memoryview(b"vtrt" + json.dumps(made).encode())


class BuilderConfig:
    def __init__(self, module, rtx):
        self._module = module
        self._rtx, self._sm, self.profiles, self.limits, self.timing = rtx, {}, [], {}, None
        if rtx:
            self.num_compute_capabilities = 0
            self.set_compute_capability = lambda capability, index: self._sm.update({index: int(capability)})

    def sm(self):
        if self._rtx:
            assert sorted(self._sm) == list(range(self.num_compute_capabilities))
            if not self._sm:
                return ["8.0", "8.6", "8.9", "12.0", "12.1"]
            return [f"{sm // 10}.{sm % 10}" for sm in self._sm.values()]
        return ["8.6"]

    def set_memory_pool_limit(self, pool, size_bytes):
        self.limits[pool.name] = size_bytes

    def add_optimization_profile(self, profile):
        self.profiles.append(profile._target.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, data):
        return self._module._strict("ITimingCache", TimingCache(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        self.timing = cache._target
        return True

    def get_timing_cache(self):
        return self._module._strict("ITimingCache", self.timing)


class TimingCache:
    def __init__(self, data):
        self.timed = set(filter(None, bytes(data).decode().split(",")))

    def serialize(self):
        return memoryview(",".join(sorted(self.timed)).encode())


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, smallest, best, largest):
        self.shapes[name] = (smallest, best, largest)


class OnnxParser:
    def __init__(self, network):
        self._network = network._target
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
