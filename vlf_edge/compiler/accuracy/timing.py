"""What the stages of a plan take on this machine: medians of single calls, all ways in turns, so that a drift of the
machine falls on all alike. Times never go into a plan: the same recipe gives the same plan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TypeVar

import numpy as np

from ...backends import installed
from ...errors import VlfError
from ...plan import Plan
from ...types import TensorSpec
from ..recurrent import OverWindows
from .fidelity import Stages
from .runners import open_stages, runners_here

_WARM_UPS = 3
_ROUNDS = 25
_Key = TypeVar("_Key")


def stage_times(ways: Mapping[_Key, Stages], inputs: Mapping[str, TensorSpec]) -> dict[_Key, dict[str, float]]:
    """Median ms of one call with a batch of one: {way: {stage: ms}}. inputs: {stage: what it reads}."""
    zeros = {stage: np.zeros(spec.sized(1), spec.dtype) for stage, spec in inputs.items()}
    taken: dict[_Key, dict[str, list[float]]] = {way: {stage: [] for stage in zeros} for way in ways}
    for turn in range(_WARM_UPS + _ROUNDS):
        for way, stages in ways.items():
            for stage, batch in zeros.items():
                # A stage with a state runs over windows: here over one of a single frame.
                given = batch[:, np.newaxis] if isinstance(stages[stage], OverWindows) else batch
                start_s = time.perf_counter()
                stages[stage](given)
                if turn >= _WARM_UPS:
                    taken[way][stage].append((time.perf_counter() - start_s) * 1e3)
    return {way: {stage: statistics.median(ms) for stage, ms in by_stage.items()} for way, by_stage in taken.items()}


def plan_times(plan: Plan) -> dict[str, dict[str, float]]:
    """Times of every backend that can run a plan here, and of its fp32 graphs on ONNX Runtime where that is installed:
    {"int8 openvino": {"frame": ms, "clip": ms}, "fp32 onnx": ...}, named as the rows of the plan's report."""
    manifest = plan.manifest
    portable = {stage: plan.graph(stage, "portable") for stage in manifest.stages}
    engines = [(info, plan.read(info.member)) for info in manifest.engines]
    with ExitStack() as opened:
        ways: dict[str, Stages] = {}
        if installed("onnxruntime"):
            fp32 = {stage: plan.graph(stage, "fp32") for stage in manifest.stages}
            ways["fp32 onnx"] = opened.enter_context(open_stages("onnxruntime", fp32))
        for runner in runners_here(portable, engines):
            try:
                stages = opened.enter_context(open_stages(runner, portable, manifest.precision, engines))
            except VlfError:  # the report has the reason
                continue
            ways[f"{manifest.precision} {runner}"] = stages
        return stage_times(ways, {stage: manifest.graph(stage, "portable").inputs[0] for stage in manifest.stages})
