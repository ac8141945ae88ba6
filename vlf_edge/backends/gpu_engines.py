"""A plan on one GPU: on the engines it brings, or on engines built here from its graphs.

What was built here is kept (see ``EngineCache``), so that only the first start takes long.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .. import backends
from ..errors import CompileError, PlanMismatch
from ..interface import check_same
from ..manifest import EngineInfo
from ..plan import Plan
from ..printable import printable
from . import build_process, cuda, tensorrt
from .engine import Engine
from .engine_cache import EngineCache, engine_key
from .tensorrt_build import default_workspace_bytes, rtx_capabilities

log = logging.getLogger(__name__)

_FIRST_PORTABLE = (8, 0)  # the first compute capability that TensorRT-RTX's engine for many GPUs is made for
_MAX_BATCH = 8  # where the plan has no engine that says otherwise, as ``vlf-edge build`` does


def engine_serves(engine: EngineInfo, compute_capability: str) -> bool:
    """Whether an engine was built for GPUs of this compute capability ("8.6"). Only deserialising is proof."""

    def serves(built_for: str) -> bool:
        later = re.fullmatch(r"(\d+\.\d+)\+", built_for)  # "12.1+": that one and all later ones
        return _number(compute_capability) >= _number(later[1]) if later else compute_capability == built_for

    return any(map(serves, engine.compute_capabilities))


def _number(compute_capability: str) -> tuple[int, ...]:
    """To compare by: "12.0" is more than "8.9"."""
    return tuple(map(int, compute_capability.split(".")))


def open_all(plan: Plan, kind: str, opener: Callable[[str], Engine]) -> dict[str, Engine]:
    """Opens all stages or none: if one fails, those before it are closed.

    kind: of the graphs that the engines are made of. Raises PlanMismatch if an engine takes or gives anything else
    than the manifest says of its graph.
    """
    engines = {}
    with ExitStack() as opened:
        for stage in plan.manifest.stages:
            engine = engines[stage] = opened.enter_context(opener(stage))
            what = f"stage {stage!r} of {plan.path}, as {engine.backend} opens it,"
            check_same(what, plan.manifest.graph(stage, kind), engine.inputs, engine.outputs)
        opened.pop_all()
    return engines


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
                    refused, cause = f"{_built_for(info)}: {error}", error
                    continue
                unlike.extend([info] if self._differs(info) else [])
                return engine
            raise PlanMismatch(refused, remedy=self._remedy()) from cause

        engines = open_all(self._plan, "typed", opener)
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

        return open_all(self._plan, "typed", opener)

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
        raise PlanMismatch(f"{self._plan.path} has {have}, found here: {self._here}", remedy=self._remedy())

    def _own(self, stage: str) -> list[EngineInfo]:
        return [e for e in self._plan.manifest.engines if (e.stage, e.library) == (stage, self._library)]

    def _differs(self, engine: EngineInfo) -> bool:
        """Whether an engine that lists this GPU was yet made for something else than what is here."""
        if not engine_serves(engine, self._gpu.compute_capability):
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
            "workspace_bytes": default_workspace_bytes(self._gpu),
        }

    def _rtx_targets(self) -> tuple[str, ...]:
        capability, known = self._gpu.compute_capability, rtx_capabilities(self._trt)
        if capability in known:
            return (capability,)
        if _number(capability) >= _FIRST_PORTABLE:
            return ()  # the engine for many GPUs: whether it fits this one, the library says when it is opened
        raise CompileError(
            f"tensorrt_rtx {self._trt.__version__} does not build for {self._gpu}, only for {', '.join(known)}",
            remedy=f"TensorRT may: {backends.install_command('tensorrt')}",
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
        if self._library == "tensorrt_rtx":
            capability, known = self._gpu.compute_capability, rtx_capabilities(self._trt)
            if capability == "7.5":
                target = "rtx-turing"
            elif capability in known or _number(capability) > _number(known[-1]):
                target = "rtx"
            else:
                target = "tensorrt"  # TensorRT-RTX does not support this GPU, TensorRT may.
        return f"add an engine for this GPU with: vlf-edge build {self._plan.path} --target {target}"


def _built_for(engine: EngineInfo) -> str:
    where = f" on {engine.device}" if engine.device else ""
    return printable(
        f"{engine.member} built for compute capability {', '.join(engine.compute_capabilities)}"
        f" with {engine.library} {engine.version}{where}"
    )
