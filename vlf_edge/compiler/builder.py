"""build: a recipe, and perhaps an earlier plan, in; a vlf.plan out.

    weights --export--> fp32 graphs --calibrate, quantise--> portable and typed graphs --engines--> vlf.plan

From an earlier plan the fp32 graphs are taken as they are: requantising needs onnx and ONNX Runtime, never torch, and
only adding engines needs TensorRT alone.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CalibrationError, PlanMismatch, WeightsError
from ..manifest import EngineInfo, Graph, Manifest
from ..plan import Plan, check_output
from .engines import Target, build_engines, resolve_targets
from .origin import Origin, Progress, from_plan, from_weights, require, versions_of
from .recipe import CLIPS_FIX, Recipe

if TYPE_CHECKING:
    from .calibrate import Clips
    from .ranges import Ranges


@dataclass
class _Graphs:
    """The graphs of a precision, by stage, and how they came about."""

    portable: dict[str, bytes]
    typed: dict[str, bytes]
    quantization: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def build(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Plan:
    """Builds a plan and writes it to ``output``; a failed build leaves what was there before.

    base: a plan to start from instead of weights; unless ``recipe.converts``, its graphs are kept and only engines are
    added. progress: called with (what, done, total). cache_dir: where calibrated ranges are kept (default:
    ~/.cache/vlf_edge/ranges).

    Raises WeightsError, ExportError, CalibrationError, CompileError, PlanError, BackendMissing.
    """
    report = progress or (lambda what, done, total: None)
    targets = resolve_targets(recipe.target)
    check_output(output)
    if base is None:
        precision = recipe.precision or "fp16"
        _check_request(recipe, precision)
        require("build", "a build", ("onnx", "onnxruntime"))
        origin = from_weights(recipe, report)
    else:
        plan = Plan.open(base)
        if not recipe.converts:
            return _add_engines(plan, recipe, targets, output, report)
        precision = recipe.precision or plan.manifest.precision
        _check_request(recipe, precision, plan)
        require("build", "a build", ("onnx", "onnxruntime"))
        origin = from_plan(plan, recipe)
    cache = Path(cache_dir) if cache_dir else _default_cache()
    graphs = _convert(origin, precision, recipe, cache, report)
    return _write(origin, precision, graphs, recipe, targets, output, report)


def _check_request(recipe: Recipe, precision: str, base: Plan | None = None) -> None:
    """Says what is missing or cannot be meant, before minutes are spent."""
    if recipe.weights and recipe.random_weights:
        raise WeightsError("weights and random weights exclude each other: give one of --weights and --random-weights")
    if base is not None and (recipe.weights or recipe.random_weights):
        raise WeightsError(f"{base.path} already holds weights; give either a base plan or weights, not both")
    if base is None and not recipe.weights and not recipe.random_weights:
        raise WeightsError(
            "no weights ship with this version: give --weights FILE (safetensors) or a BASE.plan, or say "
            "--random-weights for a plan that runs but whose labels mean nothing"
        )
    if not recipe.random_weights and (recipe.model or recipe.labels):
        raise WeightsError("model and labels come with the weights; --model and --labels are for --random-weights only")
    if precision == "int8" and not recipe.calib_data:
        raise CalibrationError(f"INT8 needs real clips to calibrate on and got none; {CLIPS_FIX}")
    if precision == "fp32" and recipe.calib_data:
        raise CalibrationError(
            "fp32 is neither calibrated nor measured: leave out --calib-data, or say --precision int8"
        )


def _convert(origin: Origin, precision: str, recipe: Recipe, cache: Path, progress: Progress) -> _Graphs:
    """fp32 graphs -> the graphs of a precision, with a report of what that cost where there are clips to measure on."""
    if precision == "fp32":
        return _Graphs(origin.graphs, origin.graphs)
    clips = _clips(origin, recipe, progress) if recipe.calib_data else None
    if precision == "int8":
        graphs = _quantize(origin, recipe, clips, cache, progress)
    else:
        from .quantize import to_float16

        typed = {stage: to_float16(graph) for stage, graph in origin.graphs.items()}
        graphs = _Graphs(origin.graphs, typed, versions=versions_of("onnx"))
    if clips is not None:
        graphs.report["fidelity"] = _fidelity(origin, graphs, clips, progress)
    return graphs


def _clips(origin: Origin, recipe: Recipe, progress: Progress) -> Clips:
    from .calibrate import collect_clips

    return collect_clips(
        recipe.calib_data,
        origin.sampling,
        origin.preprocess,
        samples=recipe.calib_samples,
        progress=lambda done, total: progress("read clips", done, total),
    )


def _quantize(origin: Origin, recipe: Recipe, clips: Clips, cache: Path, progress: Progress) -> _Graphs:
    """Stage after stage: the clip stage is calibrated on what the quantised frame stage gives it."""
    from .calibrate import stage_feeds
    from .quantize import activations, quantize, to_float16
    from .ranges import cached_ranges, collect_ranges, ranges_key

    portable, typed, kept_float, int8, report = {}, {}, {}, {}, {}
    clips_sha256 = clips.sha256
    for stage, graph in origin.graphs.items():
        count, feeds = stage_feeds(stage, clips, portable)
        progress(f"calibrate {stage} stage", 0, count)

        def compute(graph: bytes = graph, stage: str = stage, count: int = count, feeds=feeds) -> Ranges:
            return collect_ranges(
                graph,
                activations(graph),
                feeds,
                recipe.calib_method,
                percentile=recipe.percentile,
                progress=lambda done: progress(f"calibrate {stage} stage", done, count),
            )

        # The clip stage's data depend on the quantised frame stage too, so its bytes are part of the key.
        data = hashlib.sha256("".join([clips_sha256, *map(_sha256, portable.values())]).encode()).hexdigest()
        ranges = cached_ranges(cache, ranges_key(graph, data, recipe.calib_method, recipe.percentile), compute)
        quantized = quantize(graph, ranges)
        portable[stage], typed[stage] = quantized.onnx, to_float16(quantized.onnx)
        kept_float[stage], int8[stage] = quantized.kept_float, len(quantized.quantized)
        report[stage] = {"samples": ranges.samples, "clipped": ranges.clipped}
    quantization = {
        "method": recipe.calib_method,
        "windows": len(clips.windows),
        "frames": len(np.unique(clips.windows)),
        "clips": list(clips.sources),
        "sha256": clips_sha256,
        "int8_nodes": int8,
        "kept_float": kept_float,
    }
    if recipe.calib_method == "percentile":
        quantization["percentile"] = recipe.percentile
    versions = versions_of("onnx", "onnxruntime")
    return _Graphs(portable, typed, quantization, {"calibration": report}, versions)


def _fidelity(origin: Origin, graphs: _Graphs, clips: Clips, progress: Progress) -> dict[str, Any]:
    """Errors of the portable (int8) or typed (fp16) graphs against fp32, on held-out windows where there are any."""
    from .fidelity import measure

    held_out = len(clips.held_out) > 0
    candidate = graphs.portable if graphs.quantization else graphs.typed
    measured = measure(
        origin.graphs,
        candidate,
        *clips.only(clips.held_out if held_out else clips.windows),
        progress=lambda done, total: progress("measure against fp32", done, total),
    )
    return {"held_out": held_out, "against": "fp32 graphs on ONNX Runtime", **measured}


def _write(
    origin: Origin,
    precision: str,
    graphs: _Graphs,
    recipe: Recipe,
    targets: Sequence[Target],
    output: str | os.PathLike[str],
    progress: Progress,
) -> Plan:
    from .graph import tensor_specs

    members: dict[str, bytes] = {}
    entries = []
    kinds = {"fp32": origin.graphs, "portable": graphs.portable, "typed": graphs.typed}
    names = {"fp32": "fp32", "portable": "int8", "typed": "typed"}
    for stage in origin.graphs:
        for kind, by_stage in kinds.items():
            data = by_stage[stage]
            # A graph that equals an earlier one is stored once.
            member = next((name for name, known in members.items() if known == data), f"{stage}.{names[kind]}.onnx")
            members[member] = data
            entries.append(Graph(stage, kind, member, *tensor_specs(data)))
    engines = _engines(graphs.typed, recipe, targets, progress)
    manifest = Manifest(
        model=origin.model,
        labels=origin.labels,
        preprocess=origin.preprocess,
        sampling=origin.sampling,
        precision=precision,
        stages=tuple(origin.graphs),
        graphs=tuple(entries),
        weights=origin.weights,
        engines=tuple(info for info, _ in engines),
        quantization=graphs.quantization,
        versions={**origin.versions, **graphs.versions},
    )
    members |= {info.member: data for info, data in engines}
    return Plan.write(output, manifest, members, graphs.report)


def _add_engines(
    plan: Plan, recipe: Recipe, targets: Sequence[Target], output: str | os.PathLike[str], progress: Progress
) -> Plan:
    """The same plan with engines added; those of the same target are replaced, all others kept."""
    manifest = plan.manifest
    if not targets:
        raise PlanMismatch(
            f"nothing to do for {plan.path}: give --precision to requantise it, or --target rtx, rtx-turing or "
            "tensorrt to add an engine (on this machine --target auto finds none to add)"
        )
    typed = {stage: plan.graph(stage, "typed") for stage in manifest.stages}
    engines = _engines(typed, recipe, targets, progress)
    replaced = {info.member for info, _ in engines}
    kept = tuple(engine for engine in manifest.engines if engine.member not in replaced)
    members = {name: plan.read(name) for name in manifest.members if name != "report.json"}
    members |= {info.member: data for info, data in engines}
    manifest = replace(manifest, engines=(*kept, *(info for info, _ in engines)))
    return Plan.write(output, manifest, members, plan.report)


def _engines(
    typed: Mapping[str, bytes], recipe: Recipe, targets: Sequence[Target], progress: Progress
) -> Sequence[tuple[EngineInfo, bytes]]:
    return build_engines(
        typed,
        targets,
        max_batch=recipe.max_batch,
        workspace_bytes=None if recipe.workspace_mib is None else recipe.workspace_mib << 20,
        progress=lambda done, total, member: progress("compile engines", done, total),
    )


def _default_cache() -> Path:
    try:
        return Path.home() / ".cache" / "vlf_edge" / "ranges"
    except RuntimeError:  # a user without a home, as in containers
        return Path(tempfile.gettempdir()) / "vlf_edge" / "ranges"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
