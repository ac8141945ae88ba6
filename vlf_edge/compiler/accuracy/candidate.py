"""Candidates: graphs of one precision, run in every way this machine can and judged before one becomes a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...backends.table import CPU_BACKENDS
from ...errors import VlfError
from ..fp32_model import Progress
from ..quantization.convert import Graphs, Int8
from .fidelity import Reference, Stages
from .gate import Verdict, fewest, judge, unsound
from .runners import AS_WRITTEN, EngineFile, open_stages, runners_here
from .sensitivity import Effect, effects

log = logging.getLogger(__name__)
# With more than this share of its nodes in float, a plan is int8 by name only.
MOST_RESTORED = 0.5
FP32_ROW = f"fp32 {AS_WRITTEN}"
# Builds the engines that this machine can run, of typed graphs: what ``engines.build_engines`` gives.
EngineBuilder = Callable[[Graphs], Sequence[EngineFile]]


@dataclass(frozen=True)
class Candidate:
    """graphs, and the engines this machine can run. rows: one for each way that ``measure`` tried.
    verdict: None where nothing gates and nothing gives NaN. restored: the nodes that had to go back to float for it,
    best first. before: the verdict on the same without them."""

    graphs: Graphs
    engines: Sequence[EngineFile]
    rows: list[dict[str, Any]]
    verdict: Verdict | None
    restored: Sequence[Effect] = ()
    before: Verdict | None = None

    @property
    def passed(self) -> bool:
        """True if the gate holds, or if there is none."""
        return self.verdict is None or self.verdict.passed

    def gate_json(self) -> dict[str, Any]:
        """What the report says about the gate, as plain JSON; empty if there is none."""
        if self.verdict is None:
            return {}
        gate = self.verdict.to_json()
        gate["restored"] = [{"stage": e.stage, "node": e.node, "gain": _rounded(e.gain)} for e in self.restored]
        if self.before is not None:
            gate["before"] = self.before.to_json()
        return gate


@dataclass(frozen=True)
class CandidateBuilder:
    """Makes candidates and holds them against the fp32 graphs.

    max_drop: see ``Recipe``; None: nothing gates, all is only reported, but NaN never passes.
    build_engines: makes the engines for this machine.
    for_gpus: whether any engines are wanted.
    """

    reference: Reference
    max_drop: float | None
    build_engines: EngineBuilder
    for_gpus: bool
    progress: Progress

    def build(self, graphs: Graphs, restored: Sequence[Effect] = (), before: Verdict | None = None) -> Candidate:
        """Builds what this machine can run of the graphs, measures and judges it. restored, before: as in Candidate."""
        engines = self.build_engines(graphs)
        rows = measure(graphs, engines, self.reference, self.for_gpus, self._step(f"measure {graphs.precision}"))
        gated = self.max_drop is not None
        verdict = judge(rows, self.reference, self.max_drop) if gated else unsound(rows, self.reference)
        return Candidate(graphs, engines, rows, verdict, restored, before)

    def build_int8(self, int8: Int8) -> Candidate:
        """A candidate with as many nodes in int8 as the gate allows.

        If all of them are too many, the nodes are ranked by what they cost and the fewest, at most half, go back to
        float. If half is not enough the candidate says so: it has not ``passed``.
        """
        full = self.build(int8.graphs())
        if full.passed or self.max_drop is None:
            return full
        log.info("int8 falls short of the gate (%s): looking for the nodes that cost most", full.verdict)
        ranked = effects(int8, self.reference, _ranking_runner(full.verdict), self._step("rank int8 nodes"))
        candidates: dict[int, Candidate] = {}

        def passes(nodes: Sequence[Effect]) -> bool:
            candidates[len(nodes)] = self.build(int8.graphs([effect.key for effect in nodes]), nodes, full.verdict)
            return candidates[len(nodes)].passed

        most = int(len(ranked) * MOST_RESTORED)
        found = fewest(ranked, most, passes)
        return candidates[most if found is None else len(found)] if candidates else full

    def _step(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(what, done, total)


def measure(
    graphs: Graphs,
    engines: Sequence[EngineFile],
    reference: Reference,
    for_gpus: bool,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Runs graphs in every way this machine can. One row of plain JSON each: {"way": "int8 openvino"} and what
    ``Reference.errors`` says, or {"way", "failed": why}.

    Rows "int8 onnx" and "fp16 onnx" are the graphs as they are written, "int8 typed onnx" the float16 ones that GPUs
    get: measured where engines are built from them (for_gpus).
    """
    precision, rows = graphs.precision, []
    as_written = {"int8": {"": graphs.portable}, "fp16": {"": graphs.typed}}.get(precision, {})
    if precision == "int8" and for_gpus:
        as_written["typed "] = graphs.typed
    jobs = [(f"{precision} {kind}{AS_WRITTEN}", AS_WRITTEN, by_stage) for kind, by_stage in as_written.items()]
    jobs += [(f"{precision} {runner}", runner, graphs.portable) for runner in runners_here(graphs.portable, engines)]
    for done, (name, runner, by_stage) in enumerate(jobs):
        progress(done, len(jobs))
        try:
            with open_stages(runner, by_stage, precision, engines) as stages:
                rows.append({"way": name, **reference.errors(stages)})
        except VlfError as error:  # installed, but it cannot run this: the report says so
            if runner == AS_WRITTEN:
                raise
            rows.append({"way": name, "failed": str(error)})
    progress(len(jobs), len(jobs))
    return rows


def reference_rows(reference: Reference, torch: Stages) -> list[dict[str, Any]]:
    """The rows of what everything is compared with: PyTorch, where the build began there, and the fp32 graphs."""
    rows = [{"way": "fp32 torch", **reference.errors(torch)}] if torch else []
    accuracy = reference.accuracy()
    return [*rows, {"way": FP32_ROW} | ({} if accuracy is None else {"end_to_end": {"accuracy": accuracy}})]


def _ranking_runner(verdict: Verdict) -> str:
    """The backend that fell short, if ranking with it takes seconds: an engine for each node would take a GPU hours."""
    runner = verdict.way.split(" ")[-1]
    return runner if runner in CPU_BACKENDS else AS_WRITTEN


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
