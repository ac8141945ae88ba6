"""Strongly typed ONNX -> engine, with TensorRT or TensorRT-RTX. Needs neither torch nor onnx: a Jetson can do it.

Engines are not made version-compatible, though TensorRT could: such an engine carries host code, which whoever loads it
has to allow to run, and a plan may come from a stranger. A plan carries its graphs instead: they are data, and the
engine for another version is built from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..cache import keep, read_kept
from ..errors import CompileError
from . import cuda, load
from .tensorrt import collector, start


@dataclass(frozen=True)
class BuiltEngine:
    """A raw engine and what to know about it.

    version: of the library. compute_capabilities: the GPUs it was built for, such as ("8.0", "8.6"); "12.1+" means all
    later ones, too. device: name of the GPU it was built on, "" if none. max_batch: largest N.
    """

    data: bytes
    version: str
    compute_capabilities: tuple[str, ...]
    device: str
    max_batch: int


def build_engine(
    onnx_bytes: bytes,
    library: str,
    *,
    max_batch: int,
    opt_batch: int = 1,
    compute_capabilities: tuple[str, ...] = (),
    workspace_bytes: int | None = None,
    device: int = 0,
    timings: Path | None = None,
) -> BuiltEngine:
    """Builds one engine in this process. After a failed build the library may build differently: use a new process.

    onnx_bytes: strongly typed, only its first axis (N) dynamic; the precision is in its types and Q/DQ nodes.
    library: "tensorrt" builds for GPU number ``device`` of this machine; "tensorrt_rtx", without a GPU, for
    ``compute_capabilities`` or, if there are none, for all GPUs from 8.0 on. max_batch, opt_batch: largest N, and the
    one to be fastest at. workspace_bytes: bound of the memory kernels may use, None for the library's own or, on a
    board, ``default_workspace_bytes``. timings: folder in which TensorRT's measurements of kernels are kept from one
    build to the next.
    Raises CompileError with the library's own messages, BackendMissing if it or the GPU it needs is not here.
    """
    if not 1 <= opt_batch <= max_batch:
        raise CompileError(f"got opt_batch {opt_batch} and max_batch {max_batch}, expected 1 <= opt_batch <= max_batch")
    trt = load(library)
    log = collector(trt)

    def build(gpu: cuda.GpuInfo | None) -> BuiltEngine:
        builder = start(trt, trt.Builder)
        network = _parse(trt, builder, onnx_bytes, library)
        config = builder.create_builder_config()
        bound_bytes = workspace_bytes or (default_workspace_bytes(gpu) if gpu else None)
        if bound_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, bound_bytes)
        _set_compute_capabilities(trt, config, library, compute_capabilities)
        batches = [(1, opt_batch, max_batch)]
        if library == "tensorrt" and max_batch > 1:
            batches.append((1, 1, 1))  # for contexts of one stream: its own kernels, and memory for no more than that
        largest = _set_profiles(builder, config, network, batches)
        kept = timings / _timing_name(trt, gpu) if timings and gpu else None
        if kept:
            _load_timings(config, kept)
            log.drain()  # what it said of old timings is no reason for anything later
        memory = builder.build_serialized_network(network, config)
        if memory is None:
            raise CompileError(f"{library} {trt.__version__} cannot build this graph: {log.drain()}")
        if kept:
            _keep_timings(config, kept)
        served, name = ((gpu.compute_capability,), gpu.model) if gpu else (compute_capabilities or _portable(trt), "")
        return BuiltEngine(bytes(memory), trt.__version__, served, name, largest)

    if library == "tensorrt_rtx":
        return build(None)
    gpu = cuda.probe(device)
    stream = cuda.Stream(device)
    try:
        with stream.current():  # TensorRT times its kernels on the GPU that is the calling thread's
            return build(gpu)
    finally:
        stream.close()


def _parse(trt: ModuleType, builder: Any, onnx_bytes: bytes, library: str) -> Any:
    # Bit 1 in TensorRT 10 and bit 0 in 11, where the other bit means something else: ask, never write the number.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    log = collector(trt)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_bytes):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)) or log.drain()
        raise CompileError(f"{library} {trt.__version__} cannot read this ONNX graph: {errors}")
    return network


def rtx_capabilities(trt: ModuleType) -> tuple[str, ...]:
    """The compute capabilities that this TensorRT-RTX builds for, such as ("7.5", "8.0", ...)."""
    names = [name[2:] for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d{2,}", name)]
    return tuple(f"{name[:-1]}.{name[-1]}" for name in names)


def _portable(trt: ModuleType) -> tuple[str, ...]:
    """What an engine is for that was built for no compute capability in particular, by TensorRT-RTX's documents.

    Setting all of them, one by one, would give less: an engine without the later ones.
    """
    *known, last = (known for known in rtx_capabilities(trt) if known != "7.5")
    return (*known, f"{last}+")


def _set_compute_capabilities(trt: ModuleType, config: Any, library: str, wanted: tuple[str, ...]) -> None:
    if library != "tensorrt_rtx":
        if wanted:
            raise CompileError(f"{library} builds for this machine's GPU only, got {', '.join(wanted)}; use target rtx")
        return
    names = ["SM" + capability.replace(".", "") for capability in wanted]
    known = ["SM" + capability.replace(".", "") for capability in rtx_capabilities(trt)]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise CompileError(f"{library} {trt.__version__} builds for {', '.join(known)}, got {', '.join(unknown)}")
    if not wanted:
        return
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def default_workspace_bytes(gpu: cuda.GpuInfo) -> int | None:
    """What TensorRT's builder may use for kernels unless told otherwise: all there is, but where CPU and GPU share
    their memory an eighth of it, which is judgement."""
    return gpu.memory_bytes // 8 if gpu.integrated else None


def _set_profiles(builder: Any, config: Any, network: Any, batches: list[tuple[int, int, int]]) -> int:
    """Adds a profile over N, if N is dynamic, for each (smallest, best, largest). Returns the largest N."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if not dynamic:
        return int(inputs[0].shape[0])
    for sizes in batches:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            first, *rest = tuple(tensor.shape)
            if first != -1 or -1 in rest:
                got = (first, *rest)
                raise CompileError(f"input {tensor.name} is {got}; only the first axis (N) may be dynamic (-1)")
            profile.set_shape(tensor.name, *((batch, *rest) for batch in sizes))
        if config.add_optimization_profile(profile) < 0:
            names = [tensor.name for tensor in dynamic]
            raise CompileError(f"no optimisation profile for batches of 1 to {sizes[-1]} fits {names}")
    return max(largest for _, _, largest in batches)


def _timing_name(trt: ModuleType, gpu: cuda.GpuInfo) -> str:
    """Timings hold for one version of TensorRT on one kind of GPU."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{trt.__version__} sm{gpu.compute_capability} {gpu.model}") + ".timing"


def _load_timings(config: Any, path: Path) -> None:
    for data in (read_kept(path), b""):
        if data is not None:
            timings = config.create_timing_cache(data)
            # Refused if it is of another version or GPU after all: then one that is empty.
            if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
                return


def _keep_timings(config: Any, path: Path) -> None:
    timings = config.get_timing_cache()
    memory = None if timings is None else timings.serialize()
    if memory is not None:
        keep(path, bytes(memory))
