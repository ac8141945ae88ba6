"""build: a recipe, and perhaps an earlier plan, in; a vlf.plan out.

    weights --export--> fp32 graphs --calibrate, quantise--> portable and typed graphs --engines--> vlf.plan

From an earlier plan the fp32 graphs are taken as they are: requantising needs onnx and ONNX Runtime, never torch, and
only adding engines needs TensorRT alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendMissing, CalibrationError, PlanMismatch, WeightsError
from ..plan import EngineInfo, Graph, Manifest, Plan
from ..runtime.backends import installed
from ..types import Preprocess, Sampling
from .recipe import Recipe

if TYPE_CHECKING:
    from .calibrate import Clips
    from .ranges import Ranges

Progress = Callable[[str, int, int], None]
DEFAULT_SPAN_S = 2.0
_CLASSES_OF_RANDOM_WEIGHTS = 12


@dataclass(frozen=True)
class _Origin:
    """Where a build starts: the fp32 graphs and all that is known about them."""

    model: dict[str, Any]
    labels: tuple[str, ...]
    preprocess: Preprocess
    sampling: Sampling
    weights: dict[str, Any]
    graphs: dict[str, bytes]
    versions: dict[str, str]


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

    base: a plan to start from instead of weights. With neither ``recipe.precision`` nor ``recipe.calib_data``, its
    graphs are kept and only engines are added. progress: called with (what, done, total). cache_dir: where calibrated
    ranges are kept (default: ~/.cache/vlf_edge/ranges).

    Raises WeightsError, ExportError, CalibrationError, CompileError, PlanError, BackendMissing.
    """
    report = progress or (lambda what, done, total: None)
    if base is not None:
        plan = Plan.open(base)
        if recipe.weights or recipe.random_weights:
            raise WeightsError(f"{base} already holds weights; give either a base plan or weights, not both")
        if recipe.precision is None and not recipe.calib_data:
            return _add_engines(plan, recipe, output, report)
        precision = recipe.precision or plan.manifest.precision
        origin = _from_plan(plan, recipe)
    else:
        precision = recipe.precision or "fp16"
        _check_calibration(precision, recipe)
        origin = _from_weights(recipe, report)
    _require("build", "a build", ("onnx", "onnxruntime"))
    cache = Path(cache_dir) if cache_dir else Path.home() / ".cache" / "vlf_edge" / "ranges"
    graphs = _convert(origin, precision, recipe, cache, report)
    return _write(origin, precision, graphs, recipe, output, report)


def _require(extra: str, what: str, packages: Sequence[str]) -> None:
    """Names every package that is missing at once, and the extra that brings them."""
    missing = [package for package in packages if not installed(package)]
    if missing:
        instead = "; without PyTorch, start from a BASE.plan" if extra == "models" else ""
        raise BackendMissing(
            f"{what} needs {', '.join(missing)}, not installed here: pip install 'vlf_edge[{extra}]'{instead}"
        )


def _check_calibration(precision: str, recipe: Recipe) -> None:
    """Says what is missing before minutes are spent on the export."""
    if precision == "int8" and not recipe.calib_data:
        from .calibrate import FIX

        raise CalibrationError(f"INT8 needs real clips to calibrate on and got none; {FIX}")


def _from_weights(recipe: Recipe, progress: Progress) -> _Origin:
    """Exports the model of a weights file, or a random one if that was asked for."""
    if recipe.weights and recipe.random_weights:
        raise WeightsError(
            "weights and random weights exclude each other: give one of --weights FILE and --random-weights"
        )
    if not recipe.weights and not recipe.random_weights:
        raise WeightsError(
            "no weights ship with this version: give --weights FILE (safetensors) or a BASE.plan, or say "
            "--random-weights "
            "for a plan that runs but whose labels mean nothing"
        )
    _require("models", "a build from weights", ("torch", "timm", "onnxscript", "safetensors"))
    progress("export", 0, 1)  # the model itself takes its time, and importing PyTorch takes more
    if recipe.weights:
        from ..models.weights import load_weights

        loaded = load_weights(recipe.weights)
        model, labels, span_s = loaded.model, loaded.labels, loaded.record.get("span_s", DEFAULT_SPAN_S)
        weights = {"origin": "file", "sha256": loaded.sha256, "record": loaded.record}
    else:
        from ..models import create_model

        labels = recipe.labels or tuple(f"class {i}" for i in range(_CLASSES_OF_RANDOM_WEIGHTS))
        model, span_s = create_model(recipe.model, len(labels), seed=recipe.seed), DEFAULT_SPAN_S
        weights = {"origin": "random", "seed": recipe.seed}
    from .export import export_stage

    stages, graphs = model.stages(), {}
    for done, stage in enumerate(stages):
        progress("export", done, len(stages))
        graphs[stage.name] = export_stage(stage)
    progress("export", len(stages), len(stages))
    sizes = model.sizes
    return _Origin(
        model=sizes.to_json(),
        labels=tuple(labels),
        preprocess=Preprocess(sizes.height_px, sizes.width_px, min(sizes.height_px, sizes.width_px)),
        sampling=Sampling(sizes.frames, recipe.span_s or span_s),
        weights=weights,
        graphs=graphs,
        versions=_versions("torch", "timm", "onnx"),
    )


def _from_plan(plan: Plan, recipe: Recipe) -> _Origin:
    manifest = plan.manifest
    sampling = replace(manifest.sampling, span_s=recipe.span_s) if recipe.span_s else manifest.sampling
    return _Origin(
        model=manifest.model,
        labels=manifest.labels,
        preprocess=manifest.preprocess,
        sampling=sampling,
        weights=manifest.weights,
        graphs={stage: plan.graph(stage, "fp32") for stage in manifest.stages},
        versions=manifest.versions,
    )


def _convert(origin: _Origin, precision: str, recipe: Recipe, cache: Path, progress: Progress) -> _Graphs:
    """fp32 graphs -> the graphs of a precision, with a report of what that cost where there are clips to measure on."""
    _check_calibration(precision, recipe)
    if precision == "fp32":
        return _Graphs(origin.graphs, origin.graphs)
    clips = _clips(origin, recipe, progress) if recipe.calib_data else None
    if precision == "int8":
        graphs = _quantize(origin, recipe, clips, cache, progress)
    else:
        from .quantize import to_float16

        typed = {stage: to_float16(graph) for stage, graph in origin.graphs.items()}
        graphs = _Graphs(origin.graphs, typed, versions=_versions("onnx"))
    if clips is not None:
        graphs.report["fidelity"] = _fidelity(origin, graphs, clips, progress)
    return graphs


def _clips(origin: _Origin, recipe: Recipe, progress: Progress) -> Clips:
    from .calibrate import collect_clips

    return collect_clips(
        recipe.calib_data,
        origin.sampling,
        origin.preprocess,
        samples=recipe.calib_samples,
        progress=lambda done, total: progress("read clips", done, total),
    )


def _quantize(origin: _Origin, recipe: Recipe, clips: Clips, cache: Path, progress: Progress) -> _Graphs:
    """Stage after stage: the clip stage is calibrated on what the quantised frame stage gives it."""
    from .calibrate import stage_feeds
    from .quantize import activations, quantize, to_float16
    from .ranges import cached_ranges, collect_ranges, ranges_key

    portable, typed, kept_float, int8, report = {}, {}, {}, {}, {}
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
        data = hashlib.sha256("".join([clips.sha256, *map(_sha256, portable.values())]).encode()).hexdigest()
        ranges = cached_ranges(cache, ranges_key(graph, data, recipe.calib_method, recipe.percentile), compute)
        quantized = quantize(graph, ranges)
        portable[stage], typed[stage] = quantized.onnx, to_float16(quantized.onnx)
        kept_float[stage], int8[stage] = quantized.kept_float, len(quantized.quantized)
        report[stage] = {"samples": ranges.samples, "clipped": ranges.clipped}
    quantization = {
        "method": recipe.calib_method,
        "windows": len(clips.windows),
        "frames": report["frame"]["samples"] if "frame" in report else len(clips.frames),
        "clips": list(clips.sources),
        "sha256": clips.sha256,
        "int8_nodes": int8,
        "kept_float": kept_float,
    }
    if recipe.calib_method == "percentile":
        quantization["percentile"] = recipe.percentile
    versions = _versions("onnx", "onnxruntime")
    return _Graphs(portable, typed, quantization, {"calibration": report}, versions)


def _fidelity(origin: _Origin, graphs: _Graphs, clips: Clips, progress: Progress) -> dict[str, Any]:
    """Errors of the portable (int8) or typed (fp16) graphs against fp32, on held-out windows where there are any."""
    import numpy as np

    from .fidelity import measure

    held_out = len(clips.held_out) > 0
    windows = clips.held_out if held_out else clips.windows
    used = np.unique(windows)
    candidate = graphs.portable if graphs.quantization else graphs.typed
    measured = measure(
        origin.graphs,
        candidate,
        clips.frames[used],
        np.searchsorted(used, windows),
        progress=lambda done, total: progress("measure against fp32", done, total),
    )
    return {"held_out": held_out, "against": "fp32 graphs on ONNX Runtime", **measured}


def _write(
    origin: _Origin,
    precision: str,
    graphs: _Graphs,
    recipe: Recipe,
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
    engines = _engines(graphs.typed, recipe, progress)
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


def _add_engines(plan: Plan, recipe: Recipe, output: str | os.PathLike[str], progress: Progress) -> Plan:
    """The same plan with engines added; those of the same target are replaced, all others kept."""
    manifest = plan.manifest
    engines = _engines({stage: plan.graph(stage, "typed") for stage in manifest.stages}, recipe, progress)
    if not engines:
        raise PlanMismatch(
            f"nothing to do for {plan.path}: give --precision to requantise it, or --target rtx, rtx-turing or "
            "tensorrt to add an engine (on this machine --target auto finds none to add)"
        )
    replaced = {info.member for info, _ in engines}
    kept = tuple(engine for engine in manifest.engines if engine.member not in replaced)
    members = {name: plan.read(name) for name in manifest.members if name != "report.json"}
    members |= {info.member: data for info, data in engines}
    manifest = replace(manifest, engines=(*kept, *(info for info, _ in engines)))
    return Plan.write(output, manifest, members, plan.report)


def _engines(typed: Mapping[str, bytes], recipe: Recipe, progress: Progress) -> Sequence[tuple[EngineInfo, bytes]]:
    from .engines import build_engines, resolve_targets

    return build_engines(
        typed,
        resolve_targets(recipe.target),
        max_batch=recipe.max_batch,
        workspace_bytes=None if recipe.workspace_mib is None else recipe.workspace_mib << 20,
        progress=lambda done, total, member: progress("compile engines", done, total),
    )


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a system package without metadata, as on a Jetson
            found[package] = "unknown"
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
