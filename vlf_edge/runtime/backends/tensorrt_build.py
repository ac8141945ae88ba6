"""Strongly typed ONNX -> engine, with TensorRT or TensorRT-RTX. Needs neither torch nor onnx: a Jetson can do it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...errors import CompileError
from . import cuda, load
from .tensorrt import collector


@dataclass(frozen=True)
class BuiltEngine:
    """A raw engine and what to know about it.

    version: of the library. compute_capabilities: the GPUs it was built for, such as ("8.0", "8.6"). device: name of
    the GPU it was built on, "" if none. max_batch: largest N.
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
) -> BuiltEngine:
    """Builds one engine in this process. After a failed build the library may build differently: use a new process.

    onnx_bytes: strongly typed, only its first axis (N) dynamic; the precision is in its types and Q/DQ nodes.
    library: "tensorrt" builds for the GPU of this machine; "tensorrt_rtx" for ``compute_capabilities``, without a GPU.
    max_batch, opt_batch: largest N, and the one to be fastest at. workspace_bytes: bound of the memory kernels may use.
    Raises CompileError with the library's own messages, BackendMissing if it or the GPU it needs is not here.
    """
    if not 1 <= opt_batch <= max_batch:
        raise CompileError(f"got opt_batch {opt_batch} and max_batch {max_batch}, expected 1 <= opt_batch <= max_batch")
    trt = load(library)
    gpu = None if library == "tensorrt_rtx" else cuda.probe()
    log = collector(trt)
    log.drain()
    builder = trt.Builder(log)
    # Bit 1 in TensorRT 10 and bit 0 in 11, where the other bit means something else: ask, never write the number.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_bytes):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)) or log.drain()
        raise CompileError(f"{library} {trt.__version__} cannot read this ONNX graph: {errors}")
    config = builder.create_builder_config()
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    _set_compute_capabilities(trt, config, library, compute_capabilities)
    largest = _set_profile(builder, config, network, opt_batch, max_batch)
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise CompileError(f"{library} {trt.__version__} cannot build this graph: {log.drain()}")
    return BuiltEngine(
        data=bytes(memory),
        version=trt.__version__,
        compute_capabilities=(gpu.compute_capability,) if gpu else compute_capabilities,
        device=gpu.name if gpu else "",
        max_batch=largest,
    )


def _set_compute_capabilities(trt: ModuleType, config: Any, library: str, wanted: tuple[str, ...]) -> None:
    if library != "tensorrt_rtx":
        if wanted:
            raise CompileError(f"{library} builds for this machine's GPU only, got {', '.join(wanted)}; use target rtx")
        return
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    names = ["SM" + capability.replace(".", "") for capability in wanted]
    unknown = sorted(set(names) - set(known))
    if unknown or not wanted:
        got = ", ".join(unknown) or "none"
        raise CompileError(f"{library} {trt.__version__} builds for {', '.join(known)}, got {got}")
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _set_profile(builder: Any, config: Any, network: Any, opt_batch: int, max_batch: int) -> int:
    """Adds one profile over N if N is dynamic. Returns the largest N."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if not dynamic:
        return int(inputs[0].shape[0])
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        first, *rest = tuple(tensor.shape)
        if first != -1 or -1 in rest:
            raise CompileError(f"input {tensor.name} is {(first, *rest)}; only the first axis (N) may be dynamic (-1)")
        profile.set_shape(tensor.name, *((batch, *rest) for batch in (1, opt_batch, max_batch)))
    if config.add_optimization_profile(profile) < 0:
        raise CompileError(f"no optimisation profile for batches of 1 to {max_batch} fits {[t.name for t in dynamic]}")
    return max_batch
