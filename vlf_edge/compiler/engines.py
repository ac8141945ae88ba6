"""Typed ONNX -> the engines of a plan: which targets to build for, each in a process of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from .. import backends
from ..backends import cuda
from ..backends.build_process import build_in_child
from ..errors import CompileError
from ..manifest import EngineInfo


@dataclass(frozen=True)
class Target:
    """What to build for. library: "tensorrt_rtx" or "tensorrt". compute_capabilities: () is this machine's GPU with
    TensorRT, and all GPUs from Ampere (8.0) on with TensorRT-RTX.
    name: a plan holds one engine of a stage for each."""

    name: str
    library: str
    compute_capabilities: tuple[str, ...] = ()


TARGETS = {
    target.name: target
    for target in (
        Target("rtx", "tensorrt_rtx"),  # one engine, from Ampere on
        Target("rtx-turing", "tensorrt_rtx", ("7.5",)),
        Target("tensorrt", "tensorrt"),
    )
}


def resolve_targets(names: str) -> list[Target]:
    """The targets that a request stands for.

    names: "auto" (every engine this machine can build, except for Turing), "cpu" (none), or one or more of TARGETS and
    "rtx:smNN" (a single TensorRT-RTX target such as "rtx:sm86"), separated by commas.
    Raises BackendMissing with the install line if a library asked for is not here, CompileError for an unknown name.
    """
    if names == "cpu":
        return []
    if names == "auto":
        return _buildable_here()
    targets = [_target(name.strip()) for name in names.split(",")]
    for target in targets:
        backends.require(target.library)
    return list(dict.fromkeys(map(for_this_gpu, targets)))


def for_this_gpu(target: Target) -> Target:
    """TensorRT builds for one model of GPU: the target is named after this machine's, so that one plan can serve many.
    Raises BackendMissing if there is none."""
    if target.library != "tensorrt":
        return target
    return replace(target, name="tensorrt:" + re.sub(r"[^a-z0-9]+", "-", cuda.probe().model.lower()).strip("-"))


def member_name(stage: str, target: Target) -> str:
    """Of an engine in a plan."""
    return f"{stage}.{target.name.replace(':', '-')}.engine"


def build_engines(
    graphs: Mapping[str, bytes],
    targets: Iterable[Target],
    *,
    max_batch: int = 8,
    opt_batch: int = 1,
    workspace_bytes: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[tuple[EngineInfo, bytes]]:
    """Builds every graph for every target, one after the other: [(what it is, raw engine), ...].

    graphs: {stage: strongly typed ONNX}. progress: called as ``progress(done, total, member)`` before each build and
    at the end. Raises CompileError naming stage and target, with the builder's own messages.
    """
    jobs = [(stage, onnx_bytes, target) for stage, onnx_bytes in graphs.items() for target in targets]
    built = []
    for stage, onnx_bytes, target in jobs:
        member = member_name(stage, target)
        if progress:
            progress(len(built), len(jobs), member)
        engine = build_in_child(
            onnx_bytes,
            f"stage {stage!r} for target {target.name!r}",
            library=target.library,
            max_batch=max_batch,
            opt_batch=opt_batch,
            compute_capabilities=target.compute_capabilities,
            workspace_bytes=workspace_bytes,
        )
        batches = (engine.max_batch, min(opt_batch, engine.max_batch))
        about = (engine.version, engine.compute_capabilities, engine.device, *batches)
        built.append((EngineInfo(stage, target.name, member, target.library, *about), engine.data))
    if progress and jobs:
        progress(len(jobs), len(jobs), "")
    return built


def _target(name: str) -> Target:
    single = re.fullmatch(r"rtx:sm(\d+)(\d)", name)
    if single:
        return Target(name, "tensorrt_rtx", (f"{single[1]}.{single[2]}",))
    if name not in TARGETS:
        raise CompileError(f"no target {name!r}; available: auto, cpu, {', '.join(TARGETS)}, rtx:smNN such as rtx:sm86")
    return TARGETS[name]


def _buildable_here() -> list[Target]:
    targets = [TARGETS["rtx"]] if backends.installed("tensorrt_rtx") else []
    if backends.installed("tensorrt") and cuda.gpu() is not None:
        targets.append(for_this_gpu(TARGETS["tensorrt"]))
    return targets
