"""The choice of the engines that run a plan here: the GPU's if they fit or can be built, else OpenVINO, else ONNX
Runtime.

>>> engines = open_engines(Plan.open("vlf.plan"))
>>> tokens = engines["frame"].infer({"image": image})["tokens"]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from .. import backends
from ..errors import BackendMissing, CompileError, PlanMismatch, VlfError, WrongAnswers
from ..plan import Plan
from . import cuda
from .cpu import int8_saturates
from .engine import Engine
from .gpu_engines import GpuEngines, open_all
from .gpu_engines import engine_serves as engine_serves
from .table import CPU_BACKENDS, GPU_BACKENDS, NAMES, TABLE

log = logging.getLogger(__name__)

REBUILD = ("never", "auto", "always")
MAX_THREADS = 1024
# Looks at opened engines; raises WrongAnswers for those that must not be used.
Accept = Callable[[Mapping[str, Engine]], None]

_ASKED_FOR = "a rebuild was asked for"


def open_engines(
    plan: Plan,
    *,
    backend: str = "auto",
    device: int = 0,
    rebuild: str = "auto",
    cuda_graph: bool = True,
    threads: int | None = None,
    accept: Accept = lambda engines: None,
) -> dict[str, Engine]:
    """Opens every stage of a plan on one backend: {stage: Engine}.

    backend: "auto" takes the GPU if the plan's engines fit it or can be rebuilt for it, else OpenVINO, else ONNX
    Runtime; a name of the table takes that one only. device: number of the GPU. cuda_graph: whether engines on it
    replay their work as one CUDA graph.
    rebuild: "auto" builds engines for this GPU from the plan's graphs where none of the plan's own fits, and keeps them
    in the user's cache folder, so that the first start takes long; "never" builds nothing; "always" builds anew.
    threads: how many the CPU's libraries compute with; None: one for each physical core. GPUs do not ask for it.
    accept: engines that it refuses with WrongAnswers are closed, and the next that fit are taken.

    What does not fit is told in one sentence of the log, with what was done instead. Raises BackendMissing (a library
    or a GPU is not here), PlanMismatch (no engine of this plan fits this GPU), CompileError (nor can one be built),
    WrongAnswers (nothing else is left, or a backend was named), and whatever else ``accept`` does.
    """
    if rebuild not in REBUILD:
        raise VlfError(f"rebuild is {rebuild!r}; expected {', '.join(REBUILD)}")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise VlfError(f"threads is {threads}; expected 1 to {MAX_THREADS}, or nothing for one on each physical core")
    if backend == "auto":
        return _open_auto(plan, device, rebuild, cuda_graph, threads, accept)
    if backend in GPU_BACKENDS:
        return _open_on_gpu(GpuEngines(plan, backend, device, cuda_graph=cuda_graph), rebuild, accept)
    if backend in TABLE:
        return _accepted(_open_portable(plan, backend, threads), accept)
    raise BackendMissing(f"there is no backend {backend!r}; available: auto, {', '.join(NAMES)}")


def _accepted(engines: dict[str, Engine], accept: Accept) -> dict[str, Engine]:
    """The same engines, or what ``accept`` raises; they are closed then."""
    try:
        accept(engines)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return engines


def _refusal(engines: dict[str, Engine], accept: Accept) -> WrongAnswers | None:
    """Why ``accept`` refuses engines, which are closed then; None if it does not."""
    try:
        _accepted(engines, accept)
    except WrongAnswers as error:
        return error
    return None


def _open_on_gpu(gpu: GpuEngines, rebuild: str, accept: Accept) -> dict[str, Engine]:
    """With the library asked for and no other; so it may also try an engine that lists other GPUs."""
    if rebuild == "always":
        return _accepted(gpu.open_built(_ASKED_FOR, refresh=True), accept)
    if rebuild == "never":
        return _accepted(gpu.open_own(only_listed=False), accept)
    refused: PlanMismatch | None
    try:
        engines = gpu.open_own()
    except PlanMismatch as error:
        refused = error
    else:
        refused = _refusal(engines, accept)
        if refused is None:
            return engines
    try:
        engines = gpu.open_built(refused.problem)
    except (CompileError, PlanMismatch) as error:
        failed = error
    else:
        return _accepted(engines, accept)
    if isinstance(refused, WrongAnswers):
        raise WrongAnswers(f"{refused.problem}; {failed.problem}", remedy=refused.remedy) from failed
    try:
        engines = gpu.open_own(only_listed=False)
    except PlanMismatch as error:
        raise CompileError(f"{error.problem}; {failed}") from failed
    return _accepted(engines, accept)


def _open_auto(
    plan: Plan, device: int, rebuild: str, cuda_graph: bool, threads: int | None, accept: Accept
) -> dict[str, Engine]:
    reasons: list[VlfError] = []
    if rebuild != "always":
        for library in GPU_BACKENDS:
            if any(engine.library == library for engine in plan.manifest.engines):
                try:
                    engines = GpuEngines(plan, library, device, cuda_graph=cuda_graph).open_own()
                except (BackendMissing, PlanMismatch) as error:
                    reasons.append(error)
                except VlfError as error:  # a lack of GPU memory, say, which no other engine would cure
                    reasons.append(error)
                    rebuild = "never"
                else:
                    refusal = _refusal(engines, accept)
                    if refusal is None:
                        return engines
                    reasons.append(refusal)
    libraries, reason = _gpu_libraries(device, asked=rebuild == "always" or device != 0)
    if reason is not None and reason.problem not in [other.problem for other in reasons]:
        reasons.append(reason)
    if rebuild == "never":
        if libraries and not reasons:
            reasons.append(PlanMismatch(f"{plan.path} has no engine for a GPU, and none is to be built"))
        libraries = ()
    if libraries:
        reason = _ASKED_FOR if rebuild == "always" else _said(reasons) or f"{plan.path} has no engine for a GPU"
        for library in libraries:
            try:
                gpu = GpuEngines(plan, library, device, cuda_graph=cuda_graph)
                engines = gpu.open_built(reason, refresh=rebuild == "always")
            except VlfError as error:  # the CPU can still decide
                reasons.append(error)
            else:
                refusal = _refusal(engines, accept)
                if refusal is None:
                    return engines
                reasons.append(refusal)
    return _open_on_cpu(plan, reasons, threads, accept)


def _gpu_libraries(device: int, asked: bool) -> tuple[tuple[str, ...], BackendMissing | None]:
    """The GPU libraries that can be used here, and why none can if one is installed or a GPU was ``asked`` for.

    Nobody without such a library needs to hear of it at every start; who installed one means to use it.
    """
    found = tuple(filter(backends.installed, GPU_BACKENDS))
    if not found:
        missing = f"GPU {device} was asked for, but neither TensorRT nor TensorRT-RTX is here"
        return (), BackendMissing(missing) if asked else None
    try:
        cuda.probe(device)
    except BackendMissing as error:
        return (), error
    return found, None


def _said(reasons: list[VlfError]) -> str:
    return "; ".join(reason.problem for reason in reasons)


def _open_on_cpu(plan: Plan, reasons: list[VlfError], threads: int | None, accept: Accept) -> dict[str, Engine]:
    """reasons: why not the GPU. Nobody who is content with the CPU needs to hear at every start how to change that."""
    for name in filter(backends.installed, CPU_BACKENDS):
        try:
            engines = _open_portable(plan, name, threads)
        except BackendMissing as error:  # installed, but broken, or of no use in a forked process
            reasons.append(error)
            continue
        refusal = _refusal(engines, accept)
        if refusal is not None:
            reasons.append(refusal)
            continue
        if reasons:
            log.warning("running on the CPU with %s: %s", name, _said(reasons))
        return engines
    if any(isinstance(reason, WrongAnswers) for reason in reasons):
        raise WrongAnswers(f"nothing else here runs it: {_said(reasons)}", remedy="; ".join(_remedies(reasons)))
    because = f" ({_said(reasons)})" if reasons else ""
    raise BackendMissing(
        f"nothing here can run {plan.path}: none of {', '.join(CPU_BACKENDS)} is here{because}",
        remedy="; for the GPU: ".join([f"install one with: {TABLE[CPU_BACKENDS[0]].install}", *_remedies(reasons)]),
    )


def _remedies(reasons: list[VlfError]) -> list[str]:
    """What to do about them, each once: what follows on what is wrong."""
    return list(dict.fromkeys(reason.remedy for reason in reasons if reason.remedy))


def _open_portable(plan: Plan, backend: str, threads: int | None) -> dict[str, Engine]:
    if plan.manifest.precision == "int8" and backend in CPU_BACKENDS and int8_saturates():
        log.warning(
            "this CPU has no instructions that multiply int8 exactly (VNNI): %s computes the int8 plan in float, with "
            "the same answers but no faster than fp32",
            backend,
        )

    def opener(stage: str) -> Engine:
        onnx_bytes = plan.graph(stage, "portable")
        return TABLE[backend].open_graph(onnx_bytes, precision=plan.manifest.precision, threads=threads)

    return open_all(plan, "portable", opener)
