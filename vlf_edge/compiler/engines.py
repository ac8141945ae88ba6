"""Typed ONNX -> the engines of a plan: which targets to build for, and a process of its own for each build.

A failed build can leave the library in a state that changes the next one, and a crash or a lack of memory ends its
process: neither may touch ours.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ..errors import BackendMissing, CompileError, VlfError
from ..manifest import EngineInfo
from ..runtime import backends
from ..runtime.backends import cuda
from ..runtime.backends.tensorrt_build import build_engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What to build for. library: "tensorrt_rtx" or "tensorrt". compute_capabilities: () is this machine's GPU."""

    name: str
    library: str
    compute_capabilities: tuple[str, ...] = ()


TARGETS = {
    target.name: target
    for target in (
        Target("rtx", "tensorrt_rtx", ("8.0", "8.6", "8.9", "12.0")),  # one engine, Ampere to Blackwell
        Target("rtx-turing", "tensorrt_rtx", ("7.5",)),
        Target("tensorrt", "tensorrt"),
    )
}

_GRAPH, _OPTIONS, _ENGINE, _RESULT = "graph.onnx", "options.json", "engine", "result.json"
_CHILD = "from vlf_edge.compiler import engines; engines.build_in_folder('.')"


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
        if target.library == "tensorrt":
            cuda.probe()
    return list(dict.fromkeys(targets))


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
        member = f"{stage}.{target.name.replace(':', '-')}.engine"
        if progress:
            progress(len(built), len(jobs), member)
        options = {
            "library": target.library,
            "max_batch": max_batch,
            "opt_batch": opt_batch,
            "compute_capabilities": target.compute_capabilities,
            "workspace_bytes": workspace_bytes,
        }
        about, data = _build_in_child(onnx_bytes, options, f"stage {stage!r} for target {target.name!r}")
        built.append((EngineInfo(stage, target.name, member, target.library, **about), data))
    if progress and jobs:
        progress(len(jobs), len(jobs), "")
    return built


def build_in_folder(folder: str) -> None:
    """The child's end: builds what ``_build_in_child`` put into a folder and leaves engine and result there."""
    here = Path(folder)
    options = json.loads((here / _OPTIONS).read_text())
    options["compute_capabilities"] = tuple(options["compute_capabilities"])
    try:
        engine = build_engine((here / _GRAPH).read_bytes(), **options)
    except VlfError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    else:
        (here / _ENGINE).write_bytes(engine.data)
        result = {name: value for name, value in asdict(engine).items() if name != "data"}
    (here / _RESULT).write_text(json.dumps(result))


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
        targets.append(TARGETS["tensorrt"])
    return targets


def _build_in_child(onnx_bytes: bytes, options: dict, what: str) -> tuple[dict, bytes]:
    """The fields of EngineInfo that the builder knows, and the engine."""
    with tempfile.TemporaryDirectory(prefix="vlf-edge-build-") as folder:
        here = Path(folder)
        (here / _GRAPH).write_bytes(onnx_bytes)
        (here / _OPTIONS).write_text(json.dumps(options))
        # The child must import what we import; its own folder keeps the user's current one out of its path.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
        environment["PYTHONHASHSEED"] = "0"
        prefix = _repeatably() if options["library"] == "tensorrt_rtx" else ()
        child = subprocess.run(
            [*prefix, sys.executable, "-c", _CHILD],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if child.returncode != 0 or not (here / _RESULT).exists():
            raise CompileError(f"building {what} ended its process: {_how_it_ended(child)}")
        result = json.loads((here / _RESULT).read_text())
        if "error" in result:
            raise _error(result, what)
        result["compute_capabilities"] = tuple(result["compute_capabilities"])
        return result, (here / _ENGINE).read_bytes()


@cache
def _repeatably() -> tuple[str, ...]:
    """A command prefix under which TensorRT-RTX gives the same bytes every time, where this system allows it.

    Version 1.7 names and orders some of its work by memory addresses and by which of its threads comes first. With one
    processor, no address randomisation and (set beside this) no hash randomisation in Python there is one order left.
    """
    prefix = ("taskset", "-c", str(min(os.sched_getaffinity(0))), "setarch", "-R")
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        log.info("this system refuses setarch -R: engines may differ in some bytes from one build to the next")
    return prefix if allowed else ()


def _how_it_ended(child: subprocess.CompletedProcess) -> str:
    last_words = child.stdout.decode(errors="replace").strip().splitlines()[-3:]
    if child.returncode >= 0:
        how = f"exit status {child.returncode}"
    else:
        number = -child.returncode
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        how = f"killed by {name}"
        if number == signal.SIGKILL:
            how += ", as happens when memory runs out: close other programs or lower the batch"
    return f"{how}; it last said: {' | '.join(last_words)}" if last_words else how


def _error(result: dict, what: str) -> VlfError:
    message = result["message"]
    if result["error"] == "BackendMissing":
        return BackendMissing(message)
    # Turing has no float32 matrix products in TensorRT-RTX.
    hint = "; Turing needs --precision fp16 or int8" if "Turing" in message and "FP32" in message else ""
    return CompileError(f"cannot build {what}: {message}{hint}")
