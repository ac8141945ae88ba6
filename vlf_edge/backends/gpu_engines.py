"""A plan on one GPU: on the engines it brings, or on engines built here from its graphs.

What was built here is kept (see ``EngineCache``), so that only the first start takes long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .. import backends
from ..errors import CompileError, PlanMismatch
from ..manifest import EngineInfo
from ..plan import Plan
from ..printable import printable
from . import build_process, cuda, tensorrt
from .engine import Engine
from .engine_cache import EngineCache, engine_key
from .tensorrt_build import rtx_capabilities

log = logging.getLogger(__name__)

# GPUs that TensorRT-RTX supports, from its support matrix; 12.1 runs what was built for 12.0.
_RTX_RUNS_AS = {"7.5": "7.5", "8.0": "8.0", "8.6": "8.6", "8.9": "8.9", "12.0": "12.0", "12.1": "12.0"}
_MAX_BATCH = 8  # where the plan has no engine that says otherwise, as ``vlf-edge build`` does


def engine_serves(engine: EngineInfo, compute_capability: str) -> bool:
    """Whether an engine was built for GPUs of this compute capability ("8.6"). Only deserialising is proof."""
    runs_as = _RTX_RUNS_AS.get(compute_capability) if engine.library == "tensorrt_rtx" else None
    return compute_capability in engine.compute_capabilities or runs_as in engine.compute_capabilities


def open_all(plan: Plan, opener: Callable[[str], Engine]) -> dict[str, Engine]:
    """Opens all stages or none: if one fails, those before it are closed."""
    with ExitStack() as opened:
        engines = {stage: opened.enter_context(opener(stage)) for stage in plan.manifest.stages}
        opened.pop_all()
    return engines


def why(error: Exception) -> str:
    """What an error of this package says is wrong, without what to do about it."""
    return str(error).split("; ")[0]


class GpuEngines:
    """Opens a plan's stages with one library on one GPU.

    library: "tensorrt" or "tensorrt_rtx". device: number of the GPU. cuda_graph: whether engines replay their work as
    one CUDA graph. Raises BackendMissing if the library or the GPU is not here.
    """

    def __init__(self, plan: Plan, library: str, device: int = 0, *, cuda_graph: bool = True):
        self._trt = backends.load(library)
        self._gpu = cuda.probe(device)
        self._plan, self._library, self._device, self._cuda_graph = plan, library, device, cuda_graph
        self._cache = EngineCache()
        self._here = f"{self._gpu} with {library} {self._trt.__version__}"

    def open_own(self, *, only_listed: bool = True) -> dict[str, Engine]:
        """On the plan's engines: those built for this very GPU and version first, then those that list this GPU.

        only_listed: else also one for other GPUs, if there is no better, so that the library can say why not. Raises
        PlanMismatch if a stage has no such engine, or with the library's own words.
        """
        candidates = {stage: self._candidates(stage, only_listed) for stage in self._plan.manifest.stages}
        unlike: list[EngineInfo] = []

        def opener(stage: str) -> Engine:
            for info in candidates[stage]:
                try:
                    engine = self._run(self._plan.read(info.member))
                except PlanMismatch as error:
                    refused, cause = f"{_built_for(info)}: {error}; {self._remedy()}", error
                    continue
                unlike.extend([info] if self._differs(info) else [])
                return engine
            raise PlanMismatch(refused) from cause

        engines = open_all(self._plan, opener)
        if unlike:
            log.info("%s runs here too, on %s; %s", _built_for(unlike[0]), self._here, self._remedy())
        return engines

    def open_built(self, reason: str, *, refresh: bool = False) -> dict[str, Engine]:
        """On engines built here from the plan's graphs, now or earlier. The log says so once, with the ``reason``.

        refresh: builds them even if they were built before. Raises CompileError, also if the library does not build for
        this GPU, and PlanMismatch if it refuses what it built.
        """
        said: list[str] = []

        def say(level: int, what: str) -> None:
            if what not in said:
                log.log(level, "%s; %s", reason, what)
                said.append(what)

        def opener(stage: str) -> Engine:
            options = self._build_options(stage)
            key = engine_key(graph=self._graph_sha256(stage), **self._depends_on(options))
            anew = refresh
            kept = None if anew else self._cache.get(key)
            if kept is not None:
                try:
                    engine = self._run(kept)
                except PlanMismatch as error:
                    log.warning("an engine kept in %s is built anew: %s", self._cache.folder, error)
                    anew = True
                else:
                    say(logging.INFO, f"running engines built earlier for {self._here}, from {self._cache.folder}")
                    return engine

            def build() -> bytes:
                say(
                    logging.WARNING,
                    f"building engines for {self._here}, which takes a while, to be kept in {self._cache.folder}",
                )
                graph = self._plan.graph(stage, "typed")
                what = f"stage {stage!r} of {self._plan.path}"
                return build_process.build_in_child(graph, what, device=self._device, **options).data

            data = self._cache.get_or_build(key, build, refresh=anew)
            try:
                return self._run(data)
            except PlanMismatch as error:
                raise PlanMismatch(
                    f"the engine of stage {stage!r} that was built here does not run: {error}"
                ) from error

        return open_all(self._plan, opener)

    def _run(self, engine_bytes: bytes) -> Engine:
        return tensorrt.TensorRTEngine(engine_bytes, self._library, self._device, cuda_graph=self._cuda_graph)

    def _candidates(self, stage: str, only_listed: bool) -> list[EngineInfo]:
        engines = self._own(stage)
        listed = [engine for engine in engines if engine_serves(engine, self._gpu.compute_capability)]
        if listed:
            return sorted(listed, key=self._differs)
        if engines and not only_listed:
            return [max(engines, key=lambda engine: len(engine.compute_capabilities))]
        have = " and ".join(map(_built_for, engines)) or f"no {self._library} engine of stage {stage!r}"
        raise PlanMismatch(f"{self._plan.path} has {have}, found here: {self._here}; {self._remedy()}")

    def _own(self, stage: str) -> list[EngineInfo]:
        return [e for e in self._plan.manifest.engines if (e.stage, e.library) == (stage, self._library)]

    def _differs(self, engine: EngineInfo) -> bool:
        """Whether an engine that lists this GPU was yet made for something else than what is here."""
        if self._gpu.compute_capability not in engine.compute_capabilities:
            return True
        if engine.library == "tensorrt_rtx":  # it compiles its kernels for the GPU at hand
            return False
        return engine.version != self._trt.__version__ or engine.device not in ("", self._gpu.model)

    def _build_options(self, stage: str) -> dict[str, Any]:
        """What to ask ``build_engine`` for. Raises CompileError if TensorRT-RTX does not build for this GPU."""
        batches = [(e.max_batch, e.opt_batch) for e in self._plan.manifest.engines if e.stage == stage]
        max_batch, opt_batch = max(batches, default=(_MAX_BATCH, 1))
        targets = self._rtx_targets() if self._library == "tensorrt_rtx" else ()
        return {
            "library": self._library,
            "max_batch": max_batch,
            "opt_batch": opt_batch,
            "compute_capabilities": targets,
            # Where CPU and GPU share their memory, the builder may not have all of it; how much is judgement.
            "workspace_bytes": self._gpu.memory_bytes // 8 if self._gpu.integrated else None,
        }

    def _rtx_targets(self) -> tuple[str, ...]:
        capability, known = self._gpu.compute_capability, rtx_capabilities(self._trt)
        for target in (capability, _RTX_RUNS_AS.get(capability)):
            if target in known:
                return (target,)
        raise CompileError(
            f"tensorrt_rtx {self._trt.__version__} does not build for {self._gpu}, only for {', '.join(known)}; "
            f"TensorRT may: {backends.install_command('tensorrt')}"
        )

    def _graph_sha256(self, stage: str) -> str:
        manifest = self._plan.manifest
        return manifest.members[manifest.graph(stage, "typed").member]["sha256"]

    def _depends_on(self, options: dict[str, Any]) -> dict[str, Any]:
        # TensorRT times its kernels on one model of GPU; TensorRT-RTX compiles them where they run.
        on = {} if self._library == "tensorrt_rtx" else {"gpu": [self._gpu.compute_capability, self._gpu.model]}
        return {"version": self._trt.__version__, **on, **options}

    def _remedy(self) -> str:
        target = self._library
        if self._library == "tensorrt_rtx" and self._gpu.compute_capability in _RTX_RUNS_AS:
            target = "rtx-turing" if self._gpu.compute_capability == "7.5" else "rtx"
        elif self._library == "tensorrt_rtx":
            target = "tensorrt"  # TensorRT-RTX does not support this GPU, TensorRT may.
        return f"add an engine for this GPU with: vlf-edge build {self._plan.path} --target {target}"


def _built_for(engine: EngineInfo) -> str:
    where = f" on {engine.device}" if engine.device else ""
    return printable(
        f"{engine.member} built for compute capability {', '.join(engine.compute_capabilities)}"
        f" with {engine.library} {engine.version}{where}"
    )
