"""Times of several ways to do something, taken in turns, so that a drift of the machine falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vlf_edge.backends.engine import Engine
from vlf_edge.compiler.quantization.quantize import activations, quantize
from vlf_edge.compiler.quantization.ranges import collect_ranges
from vlf_edge.models.stage import Stage
from vlf_edge.types import TensorSpec

UNTIMED_TURNS = 2  # in which caches and memory are laid out


class Spent(NamedTuple):
    """Medians of single calls. wall_ms: by the clock. cpu_ms: of all threads of the process together. Of work on one
    thread the second is what an idle machine's clock would show, also where others use the cores; the first is not."""

    wall_ms: float
    cpu_ms: float


def in_turns(ways: Mapping[str, Callable[[], object]], turns: int) -> dict[str, Spent]:
    """Each way once in every turn; the first turns are not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(UNTIMED_TURNS + turns):
        for name, way in ways.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            way()
            if turn >= UNTIMED_TURNS:
                taken[name].append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    return {name: Spent(*(1e3 * statistics.median(column) for column in zip(*rows))) for name, rows in taken.items()}


def noise(specs: Iterable[TensorSpec], count: int) -> dict[str, np.ndarray]:
    """Inputs of a stage: no value is worth a shortcut, and times depend on none."""
    rng = np.random.default_rng(0)
    return {
        spec.name: rng.integers(0, 256, spec.sized(count), np.uint8)
        if spec.dtype == "uint8"
        else rng.standard_normal(spec.sized(count), np.float32)
        for spec in specs
    }


def int8_to_time(onnx_bytes: bytes, specs: Sequence[TensorSpec]) -> bytes:
    """The int8 graph that a build makes of an fp32 one, but with ranges of noise: good to time and for nothing else."""
    return in_int8(onnx_bytes, [noise(specs, 2)], "minmax")


def in_int8(onnx_bytes: bytes, feeds: Iterable[Mapping[str, np.ndarray]], method: str) -> bytes:
    """The int8 graph of an fp32 one. feeds, method: what ranges are from, as for ``collect_ranges``."""
    return quantize(onnx_bytes, collect_ranges(onnx_bytes, activations(onnx_bytes), feeds, method)).onnx


def runs_of(stages: Sequence[Stage], engines: Sequence[Engine]) -> tuple[Callable[[], None], Callable[[], None]]:
    """(a clip anew, a decision of a stream that moved on by a frame) of a model whose stages these engines run."""
    *frame, clip = stages
    *first, last = engines
    window, frames = noise(clip.inputs, 1), clip.inputs[0].shape[1]
    one = [noise(stage.inputs, 1) for stage in frame]
    # A stage with a state has to go through a clip frame by frame; any other takes all frames at once.
    carries = any(stage.state for stage in frame)
    whole = one * frames if carries else [noise(stage.inputs, frames) for stage in frame]

    def anew() -> None:
        for feed in whole:
            first[0].infer(feed)
        last.infer(window)

    def streamed() -> None:
        for feed in one:
            first[0].infer(feed)
        last.infer(window)

    return anew, streamed
