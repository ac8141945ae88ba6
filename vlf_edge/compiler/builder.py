"""build: a recipe, and perhaps an earlier plan, in; a vlf.plan out.

    weights --export--> fp32 graphs --calibrate, quantise--> portable and typed graphs --engines--> vlf.plan

Every plan is run before it is written: in every way this machine can, on clips held out from calibration, against its
fp32 graphs (accuracy/validate.py). An int8 plan that falls short of its gate gets its costliest nodes back in float, or
is refused.

From an earlier plan the fp32 graphs are taken as they are: requantising needs onnx and ONNX Runtime, never torch, and
only adding engines needs TensorRT alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import shipped
from ..atomic import replacing
from ..backends import cuda
from ..cache import cache_folder
from ..errors import AccuracyError, CalibrationError, CompileError, PlanMismatch, WeightsError
from ..golden_windows import ABOUT, FRAMES, GoldenWindows, has_golden_windows, to_members
from ..manifest import EngineInfo, Graph, Manifest
from ..plan import Plan, check_output
from ..software import require_packages
from . import fp32_model
from .engines import Target, build_engines, resolve_targets
from .fp32_model import Fp32Model, Progress, from_plan, from_weights, is_shipped
from .recipe import BEST, CLIPS_FIX, Recipe, load_recipe

if TYPE_CHECKING:
    from .accuracy.candidate import Candidate
    from .accuracy.runners import EngineFile
    from .quantization.convert import Graphs


_DEFAULT_OUTPUT = "vlf.plan"
_ADDED = {
    "measured": False,
    "why": "added after the plan was measured; vlf-edge eval PLAN DATA --against fp32 measures it where it runs",
}


def build(
    recipe: Recipe,
    output: str | os.PathLike[str] | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Plan:
    """Builds a plan and writes it to ``output``; a failed build leaves what was there before.

    output: by default vlf.plan, or ``base`` itself if only engines are added to it. base: a plan to start from instead
    of weights; unless the recipe ``converts`` it, its graphs are kept and only engines are added. With neither base nor
    weights, the build starts from the weights that come with the package. progress: called with (what, done, total).
    cache_dir: where calibrated ranges are kept (default: ~/.cache/vlf_edge/ranges).

    Raises WeightsError, ExportError, CalibrationError, CompileError, PlanError, BackendMissing; AccuracyError if the
    plan does not pass its gate: its report is then in OUTPUT.report.json.
    """
    progress = progress or (lambda what, done, total: None)
    targets = _targets(recipe)
    plan = _starting_plan(recipe, base)
    # A recipe names a precision; where the plan has it already, what is wanted is the engine.
    extends = base is not None and not recipe.converts(plan.manifest.precision if targets else None)
    if base is not None and not extends and output is None and _is_default_output(base):
        raise PlanMismatch(
            f"{base} is {plan.manifest.precision}, and this makes another plan of it, without its engines: name the "
            "new one with --output, or ask for the precision it has to add an engine to it"
        )
    output = output or (base if extends else _DEFAULT_OUTPUT)
    check_output(output)
    if extends:
        return _add_engines(plan, recipe, targets, output, progress)
    precision = recipe.precision or ("fp16" if base is None else plan.manifest.precision)
    recipe = _with_default_clips(recipe, plan)
    if not recipe.weights:  # which may bring their ranges: that shows when they are read
        _check_clips(recipe, precision, {} if plan is None else plan.manifest.weights)
    require_packages("build", "a build", ("onnx", "onnxruntime"))
    fp32 = from_weights(recipe, progress) if plan is None else from_plan(plan, recipe)
    if recipe.frontend != "onnx":
        if carrying := [stage.name for stage in fp32.stages if stage.state]:
            raise CompileError(
                f"--frontend {recipe.frontend} compiles no stage that carries a state, as {carrying[0]} of this model "
                "does; leave --frontend out"
            )
        from .torch_tensorrt import versions

        fp32 = replace(fp32, versions={**fp32.versions, **versions()})
    _check_clips(recipe, precision, fp32.weights)
    cache = Path(cache_dir) if cache_dir else cache_folder("ranges")
    return _validate_and_write(fp32, precision, recipe, targets, output, cache, progress)


def _validate_and_write(
    fp32: Fp32Model,
    precision: str,
    recipe: Recipe,
    targets: Sequence[Target],
    output: str | os.PathLike[str],
    cache: Path,
    progress: Progress,
) -> Plan:
    from .accuracy.validate import measured_engines, validate

    def compiled(graphs: Graphs) -> Sequence[EngineFile]:
        if recipe.frontend == "onnx":
            return _engines(graphs.typed, recipe, targets, progress)
        return _engines_of_modules(fp32, graphs, recipe, progress)

    # Engines are validated too where a GPU can run them; elsewhere they are only compiled once that is passed.
    here = bool(targets) and cuda.gpu() is not None
    to_run = compiled if here else (lambda graphs: ())
    candidate, report, golden = validate(fp32, precision, recipe, to_run, bool(targets), cache, progress)
    if not candidate.passed:
        raise _refusal(candidate, report, output)
    engines = candidate.engines if here else compiled(candidate.graphs)
    report["engines"] = measured_engines([info for info, _ in engines], candidate.rows)
    return _write(fp32, candidate.graphs, engines, report, golden, output)


def _is_default_output(path: str | os.PathLike[str]) -> bool:
    return os.path.exists(_DEFAULT_OUTPUT) and os.path.samefile(path, _DEFAULT_OUTPUT)


def _targets(recipe: Recipe) -> Sequence[Target]:
    """What to build engines for. Says at once why the frontend asked for cannot be used."""
    if recipe.frontend == "onnx":
        return resolve_targets(recipe.target)
    if not recipe.weights and not recipe.random_weights:
        raise WeightsError(
            f"--frontend {recipe.frontend} compiles PyTorch modules, of which a plan holds only the ONNX graphs: give "
            f"--weights FILE (--weights {fp32_model.DEFAULT_MODEL} for what comes with vlf-edge) or --random-weights"
        )
    frontend = f"--frontend {recipe.frontend}"
    require_packages("models", frontend, fp32_model.EXPORT_PACKAGES, fp32_model.WITHOUT_PYTORCH)
    from . import torch_tensorrt

    if recipe.precision not in (None, *torch_tensorrt.PRECISIONS):
        raise CompileError(
            f"--frontend {recipe.frontend} has no {recipe.precision}: INT8 is written into ONNX graphs as Q/DQ nodes; "
            f"give --precision {' or '.join(torch_tensorrt.PRECISIONS)}, or leave --frontend out"
        )
    return torch_tensorrt.resolve_targets(recipe.target)


def _starting_plan(recipe: Recipe, base: str | os.PathLike[str] | None) -> Plan | None:
    """The plan to start from: the one named, or one that comes with the package; None to start from weights.

    Says what is missing or cannot be meant, before minutes are spent.
    """
    if recipe.weights and recipe.random_weights:
        raise WeightsError("weights and random weights exclude each other: give one of --weights and --random-weights")
    if base is not None and (recipe.weights or recipe.random_weights):
        raise WeightsError(f"{base} already holds weights; give either a base plan or weights, not both")
    published = bool(recipe.weights and recipe.model)
    named = recipe.weights in shipped.NAMES and recipe.frontend == "onnx" and not published
    ships = base is None and not recipe.random_weights and (named or not recipe.weights)
    told = recipe.labels or recipe.frames or recipe.size_px or (recipe.model and not ships)
    if told and not recipe.random_weights and not published:
        raise WeightsError(
            "model and labels come with the weights; --model, --labels, --frames and --size are for --random-weights, "
            "and for checkpoints of a model's authors: --model tsm --weights FILE"
        )
    if not ships:
        return None if base is None else Plan.open(base)
    path = shipped.PLANS[recipe.weights or fp32_model.DEFAULT_MODEL]
    if not path.is_file():
        raise WeightsError(
            "no weights ship with this version: give --weights FILE (safetensors) or a BASE.plan, or say "
            "--random-weights for a plan that runs but whose labels mean nothing"
        )
    if recipe.model not in (None, fp32_model.DEFAULT_MODEL):
        raise WeightsError(
            f"only {fp32_model.DEFAULT_MODEL} comes with trained weights; for {recipe.model} give --weights FILE "
            "(vlf-edge train makes them), or say --random-weights"
        )
    return Plan.open(path)


def _with_default_clips(recipe: Recipe, plan: Plan | None) -> Recipe:
    """The weights that come with the package know what they were trained on: rendered clips, made on the spot."""
    ours = recipe.weights in shipped.NAMES or (plan is not None and is_shipped(plan.manifest))
    if recipe.calib_data or not ours:
        return recipe
    return replace(recipe, calib_data=load_recipe(fp32_model.SHIPPED_RECIPE).calib_data)


def _check_clips(recipe: Recipe, precision: str, weights: Mapping[str, Any]) -> None:
    """Only weights that were trained with fake quantisation know their ranges without clips."""
    if precision in ("int8", BEST) and not recipe.calib_data and not weights.get("record", {}).get("qat"):
        raise CalibrationError(f"INT8 needs real clips to calibrate on and got none; {CLIPS_FIX}")


def _refused_report(output: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(output)}.report.json")


def _refusal(candidate: Candidate, report: Mapping[str, Any], output: str | os.PathLike[str]) -> AccuracyError:
    """Keeps the report of a plan that is not written, and says where."""
    path = _refused_report(output)
    with replacing(path) as file:
        file.write((json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    # Where the best of both was asked for, fp16 has been tried.
    instead = "fp16" if candidate.graphs.precision == "int8" and "best" not in report else "fp32"
    tried = f" even with {len(candidate.restored)} nodes back in float" if candidate.restored else ""
    return AccuracyError(
        f"{candidate.graphs.precision} falls short of its gate{tried}: {candidate.verdict}; no plan was written, the "
        f"report is in {path}: calibrate on more clips like the camera's (--calib-data), allow more (--max-drop), or "
        f"build --precision {instead}"
    )


def _write(
    fp32: Fp32Model,
    graphs: Graphs,
    engines: Sequence[EngineFile],
    report: Mapping[str, Any],
    golden: GoldenWindows | None,
    output: str | os.PathLike[str],
) -> Plan:
    from .features import roles_of
    from .graph import tensor_specs

    members: dict[str, bytes] = {}
    entries = []
    kinds = {"fp32": fp32.graphs, "portable": graphs.portable, "typed": graphs.typed}
    names = {"fp32": "fp32", "portable": "int8", "typed": "typed"}
    for stage in fp32.graphs:
        for kind, by_stage in kinds.items():
            data = by_stage[stage]
            # A graph that equals an earlier one is stored once.
            member = next((name for name, known in members.items() if known == data), f"{stage}.{names[kind]}.onnx")
            members[member] = data
            entries.append(Graph(stage, kind, member, *tensor_specs(data)))
    manifest = Manifest(
        model=fp32.model,
        labels=fp32.labels,
        preprocess=fp32.preprocess,
        sampling=fp32.sampling,
        precision=graphs.precision,
        stages=tuple(fp32.graphs),
        graphs=tuple(entries),
        weights=fp32.weights,
        engines=tuple(info for info, _ in engines),
        quantization=graphs.quantization,
        versions={**fp32.versions, **graphs.versions},
        roles=roles_of(fp32.graphs),
    )
    members |= {info.member: data for info, data in engines} | to_members(golden)
    if fp32.head is not None:
        manifest = replace(manifest, labels=fp32.head.labels, head=fp32.head.info)
        members |= fp32.head.members()
    written = Plan.write(output, manifest, members, report)
    _refused_report(output).unlink(missing_ok=True)  # of an earlier build, which this one makes good
    return written


def _add_engines(
    plan: Plan, recipe: Recipe, targets: Sequence[Target], output: str | os.PathLike[str], progress: Progress
) -> Plan:
    """The same plan with engines added, or without its golden windows; engines of the same target are replaced, all
    others kept.

    Nothing is measured: that needs clips, and perhaps another GPU. The report, which tells of the plan as it was, says
    so of every engine that was added.
    """
    manifest = plan.manifest
    if not targets and not (recipe.no_golden_windows and has_golden_windows(manifest)):
        because = "--target cpu adds none" if recipe.target == "cpu" else "on this machine --target auto finds none"
        raise PlanMismatch(
            f"nothing to do for {plan.path}: give --precision to requantise it, or --target rtx, rtx-turing or "
            f"tensorrt to add an engine ({because})"
        )
    typed = {stage: plan.graph(stage, "typed") for stage in manifest.stages}
    engines = _engines(typed, recipe, targets, progress)
    replaced = {info.member for info, _ in engines}
    kept = tuple(engine for engine in manifest.engines if engine.member not in replaced)
    dropped = {"report.json"} | ({ABOUT, FRAMES} if recipe.no_golden_windows else set())
    members = {name: plan.read(name) for name in manifest.members if name not in dropped}
    members |= {info.member: data for info, data in engines}
    manifest = replace(manifest, engines=(*kept, *(info for info, _ in engines)))
    known = plan.report.get("engines")
    told = {**(known if isinstance(known, dict) else {}), **{info.target: _ADDED for info, _ in engines}}
    return Plan.write(output, manifest, members, {**plan.report, "engines": told})


def _engines(
    typed: Mapping[str, bytes], recipe: Recipe, targets: Sequence[Target], progress: Progress
) -> Sequence[tuple[EngineInfo, bytes]]:
    return build_engines(
        typed,
        targets,
        max_batch=recipe.max_batch,
        opt_batch=recipe.opt_batch,
        workspace_bytes=_workspace_bytes(recipe),
        progress=lambda done, total, member: progress("compile engines", done, total),
    )


def _engines_of_modules(
    fp32: Fp32Model, graphs: Graphs, recipe: Recipe, progress: Progress
) -> Sequence[tuple[EngineInfo, bytes]]:
    """The other frontend: with the interface of the typed graphs, so that the runtime sees no difference."""
    from . import torch_tensorrt
    from .graph import tensor_specs

    return torch_tensorrt.build_engines(
        fp32.stages,
        graphs.precision,
        {stage: tensor_specs(data) for stage, data in graphs.typed.items()},
        max_batch=recipe.max_batch,
        opt_batch=recipe.opt_batch,
        workspace_bytes=_workspace_bytes(recipe),
        progress=progress,
    )


def _workspace_bytes(recipe: Recipe) -> int | None:
    return None if recipe.workspace_mib is None else recipe.workspace_mib << 20
