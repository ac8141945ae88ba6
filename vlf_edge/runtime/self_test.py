"""The first start of a plan's engines on a machine: they are held to the plan's golden windows, once.

The windows go the way of a live stream, frame after frame through the executor that is going to serve: what is checked
is what is used. That it was well is kept, under all that the answers depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends import cuda
from ..backends.cpu import cpu_features
from ..backends.engine import Engine
from ..backends.table import FAKE, GPU_BACKENDS
from ..cache import cache_folder, keep, read_kept
from ..errors import VlfError, WrongAnswers
from ..golden_windows import GoldenWindows, has_golden_windows, read_golden
from ..plan import Plan
from ..video.sampler import GridSlot
from .executor import Executor
from .open_executor import open_executor
from .stream import DueFrame, Stream

log = logging.getLogger(__name__)
LIMIT_S = 1.5  # after which no further window is begun
_FORMAT = 1  # of what is kept: part of its name
_PASSED = b"passed\n"
_DRIVER = Path("/proc/driver/nvidia/version")


class Answers(NamedTuple):
    """What engines answered to golden windows. windows: how many there was time for; right: those decided as fp32
    does, near ties included. fault: what is wrong with the answers, "" if nothing is."""

    windows: int
    right: int
    fault: str


def check_answers(
    plan: Plan, executor: Executor, engines: Mapping[str, Engine], *, device: int = 0, cuda_graph: bool = True
) -> None:
    """Raises WrongAnswers unless the engines answer to the plan's golden windows as the plan's gate allows.

    Does nothing for a plan without any, nor for engines that have passed on this machine before. engines: those of the
    executor. device, cuda_graph: see ``open_engines``. Raises PlanError for golden windows that are not sound.
    """
    backend = executor.backend
    if backend == FAKE.name or not has_golden_windows(plan.manifest):
        return
    path = cache_folder("answers") / _key(plan, engines, device, cuda_graph)
    if read_kept(path) == _PASSED:
        return
    if plan.manifest.head is not None:  # the windows tell of the model's logits, whatever the plan decides by
        executor = open_executor(plan.manifest, engines, executor.sampling)
    answers = answer(executor, read_golden(plan))
    if answers.fault:
        raise WrongAnswers(
            f"{plan.path} gives wrong answers on {backend} here: {answers.fault} (of {answers.windows} golden windows)",
            remedy="build it anew, take another --backend, or see vlf-edge doctor; --no-self-test runs it all the same",
        )
    log.debug("%s passed its self-test: %d golden windows", backend, answers.windows)
    keep(path, _PASSED)


def accepting(plan: Plan, *, device: int = 0, cuda_graph: bool = True) -> Callable[[Mapping[str, Engine]], None]:
    """``check_answers`` as ``open_engines`` takes it, for engines that no executor was opened for yet."""

    def accept(engines: Mapping[str, Engine]) -> None:
        if has_golden_windows(plan.manifest):
            check_answers(plan, open_executor(plan.manifest, engines), engines, device=device, cuda_graph=cuda_graph)

    return accept


def answer(
    executor: Executor,
    golden: GoldenWindows,
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Answers:
    """Runs golden windows as a live stream would, one after the other, until ``limit_s`` is up; the first always.

    An engine that fails while it runs has that as its fault.
    """
    # One grid, whatever the runtime's own phases: a window is the same on each of them.
    stream = Stream("golden windows", replace(executor.sampling, phases=1))
    started_s, logits = clock(), []
    try:
        for window in golden:
            if logits and clock() - started_s > limit_s:
                break
            logits.append(_decide(executor, stream, window))
    except VlfError as error:
        return Answers(len(logits), 0, error.problem)
    finally:
        executor.forget(stream)
    found = np.stack(logits)
    return Answers(len(found), golden.right(found), golden.fault(found))


def _decide(executor: Executor, stream: Stream, window: np.ndarray) -> np.ndarray:
    """(K, H, W, 3) uint8 -> logits (C,)."""
    stream.reset()
    for number, image in enumerate(window):
        t_s = number * stream.sampling.grid_s
        (logits,) = executor.step([DueFrame(stream, image, GridSlot(number, number, t_s), t_s, number, 0.0)])
    return logits


def _key(plan: Plan, engines: Mapping[str, Engine], device: int, cuda_graph: bool) -> str:
    """Hex digest of all that the answers depend on: another plan, engine, library, driver or processor is tested."""
    backend = next(iter(engines.values())).backend
    on: dict[str, Any] = {"cpu": cpu_features()}
    if backend in GPU_BACKENDS:
        on |= {"gpu": str(cuda.gpu(device)), "driver": _driver(), "cuda_graph": cuda_graph}
    depends_on = {
        "format": _FORMAT,
        "plan": plan.digest,
        "backend": [backend, str(getattr(backends.load(backend), "__version__", ""))],
        "engines": [engine.identity for engine in engines.values()],
        **on,
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _driver() -> str:
    try:
        return _DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):  # a Jetson has another; its version comes with the system and so with TensorRT's
        return ""
