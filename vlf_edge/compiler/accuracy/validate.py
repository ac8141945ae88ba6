"""What a build is held to before its plan is written: candidates of its precision, run, judged and reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import cuda
from ...backends.selection import engine_serves
from ...backends.table import CPU_BACKENDS
from ...errors import AccuracyError
from ...golden_windows import GoldenWindows
from ...manifest import EngineInfo
from ...types import Preprocess, Sampling
from ..calibration.calibrate import calibrate
from ..calibration.windows import Clips, collect_clips
from ..fp32_model import Fp32Model, Progress
from ..graph import tensor_specs
from ..quantization.convert import in_float
from ..recipe import BEST, Recipe
from .candidate import Candidate, CandidateBuilder, EngineBuilder, reference_rows
from .fidelity import Reference
from .gate import check_reference, windows_needed
from .golden import make_golden
from .runners import AS_WRITTEN, open_stages, runners_here
from .timing import stage_times

# int8 must be this much faster than fp16 to be worth what it costs; times differ that much from run to run.
_WORTH_IT = 0.95
_SCENE_WINDOWS = 32


def validate(
    fp32: Fp32Model,
    precision: str,
    recipe: Recipe,
    build_engines: EngineBuilder,
    for_gpus: bool,
    cache: Path,
    progress: Progress,
) -> tuple[Candidate, dict[str, Any], GoldenWindows | None]:
    """The candidate to make a plan of, the plan's report and its golden windows. No plan may be made of one that has
    not ``passed``.

    precision: "fp32", "fp16", "int8" or "best". build_engines: makes the engines that this machine can run; for_gpus:
    whether any are wanted at all. Raises CalibrationError, SourceError, CompileError, WeightsError (fp32 gives NaN),
    AccuracyError (nothing to judge by).
    """
    clips = given_clips(fp32, recipe, progress)
    # Where nothing is calibrated on the clips, all of them can measure.
    calibrates = clips is not None and precision in ("int8", BEST) and not fp32.weights.get("record", {}).get("qat")
    scene = None if clips else _rendered_scene(fp32.sampling, fp32.preprocess)
    reference = _reference(fp32, clips or scene, calibrates)
    why_ungated = _why_ungated(fp32, precision, clips)
    max_drop = None if why_ungated else recipe.max_drop
    if max_drop is not None:
        if calibrates and not len(clips.held_out):
            raise AccuracyError(
                f"no clip is left to judge by: all are needed to calibrate, and {windows_needed(0)} windows of other "
                "clips are missing; give --calib-data more clips (copies do not count)"
            )
        check_reference(reference)
    builder = CandidateBuilder(reference, max_drop, build_engines, for_gpus, progress)
    candidates = {}
    for one in ("fp16", "int8") if precision == BEST else (precision,):
        if one == "int8":
            candidates[one] = builder.build_int8(calibrate(fp32, recipe, clips, cache, progress))
        else:
            candidates[one] = builder.build(in_float(fp32, one))
    kept, best = candidates[one], {}
    if precision == BEST:
        kept, best = _faster(fp32, candidates["fp16"], candidates["int8"], for_gpus)
    rows = reference_rows(reference, fp32.torch)
    for candidate in candidates.values():
        rows += candidate.rows
    report = {
        "fidelity": _fidelity(reference, clips, rows, calibrates),
        "gate": kept.gate_json() or {"none": why_ungated},
    }
    if kept.graphs.calibration:
        report["calibration"] = kept.graphs.calibration
    if best:
        report["best"] = best
    golden = None
    if kept.passed and not recipe.no_golden_windows:
        golden = make_golden(fp32, clips, scene, kept.rows, kept.graphs.precision)
    return kept, report, golden


def _fidelity(
    reference: Reference, clips: Clips | None, rows: list[dict[str, Any]], calibrates: bool
) -> dict[str, Any]:
    return {
        "on": "clips" if clips is not None else "a rendered scene",
        "held_out": not calibrates or len(clips.held_out) > 0,
        "frames": len(reference.frames),
        "windows": len(reference.windows),
        "labelled": reference.labelled,
        "rows": rows,
    }


def measured_engines(
    engines: Sequence[EngineInfo], rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, bool | str]]:
    """{target: {"measured", "why" it was not}} for the engines of a plan, plain JSON. rows: of ``measure``."""
    gpu = cuda.gpu() if engines else None
    ran = {row["way"].split(" ")[-1]: row.get("failed") for row in rows}
    told: dict[str, dict[str, bool | str]] = {}
    for info in engines:
        if gpu is None:
            why = "no GPU here to run it"
        elif not engine_serves(info, gpu.compute_capability):
            why = f"it is not for the GPU here, {gpu.name}"
        else:
            why = ran.get(info.library, f"{info.library} does not run here") or ""
        told[info.target] = {"measured": False, "why": why} if why else {"measured": True}
    return told


def given_clips(fp32: Fp32Model, recipe: Recipe, progress: Progress) -> Clips | None:
    """The windows that the recipe's calib_data gives, some of them held out; None without any."""
    if not recipe.calib_data:
        return None
    return collect_clips(
        recipe.calib_data,
        fp32.sampling,
        fp32.preprocess,
        samples=recipe.calib_samples,
        labels=fp32.clip_labels,
        progress=lambda done, total: progress("read clips", done, total),
    )


def _rendered_scene(sampling: Sampling, preprocess: Preprocess) -> Clips:
    """Where no clips were given there is still something to compare graphs on, if nothing to judge them by."""
    instants = 2 * (sampling.frames + _SCENE_WINDOWS)
    fps, side = min(30.0, 4 / sampling.step_s), preprocess.short_side_px
    seconds = math.ceil(instants * sampling.step_s)
    url = f"test://motion?seconds={seconds}&fps={fps:g}&width={side * 4 // 3}&height={side}"
    scene = collect_clips((url,), sampling, preprocess, samples=_SCENE_WINDOWS)
    return replace(scene, held_out=scene.held_out[:0], held_out_labels=scene.held_out_labels[:0])


def _reference(fp32: Fp32Model, clips: Clips, calibrates: bool) -> Reference:
    """The fp32 graphs' answers: on held-out windows, on those that calibrate where there are no others, on all of them
    where nothing calibrates."""
    if not calibrates:
        windows = np.concatenate([clips.windows, clips.held_out])
        labels = np.concatenate([clips.labels, clips.held_out_labels])
    elif len(clips.held_out):
        windows, labels = clips.held_out, clips.held_out_labels
    else:
        windows, labels = clips.windows, clips.labels
    with open_stages(AS_WRITTEN, fp32.graphs) as stages:
        return Reference.of(stages, *clips.only(windows), labels)


def _why_ungated(fp32: Fp32Model, precision: str, clips: Clips | None) -> str:
    if fp32.random:
        return "random weights: what they decide means nothing"
    if precision == "fp32":
        return "fp32 is what all else is compared with"
    return "no clips were given to judge by" if clips is None else ""


def _faster(fp32: Fp32Model, fp16: Candidate, int8: Candidate, for_gpus: bool) -> tuple[Candidate, dict[str, Any]]:
    """The faster of two candidates here among those that pass, int8 if both fail; and the report's entry about it."""
    about: dict[str, Any] = {"gates": {"fp16": fp16.gate_json(), "int8": int8.gate_json()}}
    if fp16.passed != int8.passed:
        kept, failed = (fp16, int8) if fp16.passed else (int8, fp16)
        why = f"{failed.graphs.precision} falls short of the gate: {failed.verdict}"
    elif not fp16.passed:
        kept, why = int8, "neither passes the gate"
    else:
        runner, ratio = _time_ratio(fp32, fp16, int8)
        if runner is None:
            kept, why = int8, "nothing on this machine runs both, so they could not be timed"
        else:
            about["int8_to_fp16_time"] = ratio
            kept = int8 if ratio < _WORTH_IT else fp16
            elsewhere = ", since no GPU here runs the engines" if for_gpus and runner in CPU_BACKENDS else ""
            why = f"a decision in int8 takes {ratio:g} of its time in fp16, timed on {runner}{elsewhere}"
    return kept, {"kept": kept.graphs.precision, "why": why, **about}


def _time_ratio(fp32: Fp32Model, fp16: Candidate, int8: Candidate) -> tuple[str | None, float]:
    """(the backend that the runtime would choose here for both, int8's time for a decision as a share of fp16's)."""
    failed = {row["way"] for candidate in (fp16, int8) for row in candidate.rows if "failed" in row}
    for runner in runners_here(fp32.graphs, fp16.engines):
        if {f"fp16 {runner}", f"int8 {runner}"} & failed:
            continue
        inputs = {stage: tensor_specs(data)[0][0] for stage, data in fp32.graphs.items()}
        with (
            open_stages(runner, fp16.graphs.portable, "fp16", fp16.engines) as a,
            open_stages(runner, int8.graphs.portable, "int8", int8.engines) as b,
        ):
            times = stage_times({"fp16": a, "int8": b}, inputs)
        return runner, float(f"{sum(times['int8'].values()) / sum(times['fp16'].values()):.2g}")
    return None, math.nan
