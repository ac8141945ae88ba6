"""Where a build starts: the fp32 graphs of a model, exported from weights or taken from an earlier plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import shipped
from ..errors import CompileError
from ..golden_windows import GoldenWindows, read_golden
from ..head import Head
from ..manifest import Manifest
from ..plan import Plan
from ..software import require_packages, versions_of
from ..types import Preprocess, Sampling
from .recipe import Recipe
from .recurrent import Run, as_function, states

if TYPE_CHECKING:
    from ..models.stage import Stage
    from ..models.weights import LoadedWeights

Progress = Callable[[str, int, int], None]
DEFAULT_SPAN_S = 2.0
DEFAULT_MODEL = "vlf-tiny"
# The weights that come with the package: an fp32 plan, so that building from them needs no PyTorch.
SHIPPED_PLAN = shipped.PLANS[DEFAULT_MODEL]
SHIPPED_RECIPE = "calibration/motion.toml"
# What exporting PyTorch models takes, and what to do where that is not installed.
EXPORT_PACKAGES = ("torch", "timm", "onnxscript", "safetensors")
WITHOUT_PYTORCH = "without PyTorch, start from a BASE.plan"
_CLASSES_OF_RANDOM_WEIGHTS = 12


@dataclass(frozen=True)
class Fp32Model:
    """Where a build starts: the fp32 graphs and all that is known about them.

    stages: the PyTorch stages that the graphs were exported from; torch: the same as functions, each (N, ...) array ->
    (N, ...) float32 array. Both are empty if the graphs come from a plan. labels: what the logits are for. golden: of
    that plan, if it has any. head: what the plan decides by, if it is not the logits.
    """

    model: dict[str, Any]
    labels: tuple[str, ...]
    preprocess: Preprocess
    sampling: Sampling
    weights: dict[str, Any]
    graphs: dict[str, bytes]
    versions: dict[str, str]
    stages: tuple[Stage, ...] = ()
    torch: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    golden: GoldenWindows | None = None
    head: Head | None = None

    @property
    def clip_labels(self) -> tuple[str, ...]:
        """The classes that clips may be labelled with to be judged by; none where logits mean nothing to a user."""
        return () if self.random or self.head is not None else self.labels

    @property
    def random(self) -> bool:
        """True if nothing was ever trained: labels then mean nothing."""
        return self.weights.get("origin") == "random"


def from_weights(recipe: Recipe, progress: Progress) -> Fp32Model:
    """Exports the model of a weights file, or a random one if that was asked for."""
    require_packages("models", "a build from weights", EXPORT_PACKAGES, WITHOUT_PYTORCH)
    progress("export", 0, 1)  # the model itself takes its time, and importing PyTorch takes more
    if recipe.weights:
        loaded = _loaded(recipe)
        model, labels, span_s = loaded.model, loaded.labels, loaded.record.get("span_s", DEFAULT_SPAN_S)
        weights = {"origin": "file", "sha256": loaded.sha256, "record": loaded.record}
    else:
        from ..models import create_model

        labels = recipe.labels or tuple(f"class {i}" for i in range(_CLASSES_OF_RANDOM_WEIGHTS))
        new = {"seed": recipe.seed, "frames": recipe.frames, "size_px": recipe.size_px}
        model, span_s = create_model(recipe.model or DEFAULT_MODEL, len(labels), **new), DEFAULT_SPAN_S
        weights = {"origin": "random", "seed": recipe.seed}
    from .features import with_features
    from .onnx_export import export_stage

    stages, graphs = model.stages(), {}
    for done, stage in enumerate(stages):
        progress("export", done, len(stages))
        graphs[stage.name] = with_features(export_stage(stage))
    progress("export", len(stages), len(stages))
    sizes = model.sizes
    return Fp32Model(
        model=sizes.to_json(),
        labels=tuple(labels),
        preprocess=sizes.preprocess,
        sampling=Sampling(sizes.frames, recipe.span_s or span_s),
        weights=weights,
        graphs=graphs,
        versions=versions_of("torch", "timm", "onnx"),
        stages=tuple(stages),
        torch={stage.name: as_function(_run_of(stage), stage.inputs, stage.outputs) for stage in stages},
    )


def _loaded(recipe: Recipe) -> LoadedWeights:
    """Weights that know their model, or a checkpoint that is said to be of one."""
    if recipe.model is None:
        from ..models.weights import load_weights

        return load_weights(recipe.weights)
    from ..models.published import load_published

    return load_published(recipe.weights, recipe.model, recipe.labels, frames=recipe.frames, size_px=recipe.size_px)


def _run_of(stage: Stage) -> Run:
    """The stage itself, arrays by name."""
    from .onnx_export import torch_outputs

    names = [spec.name for spec in stage.outputs]
    return lambda feed: dict(zip(names, torch_outputs(stage, *(feed[spec.name] for spec in stage.inputs))))


def from_plan(plan: Plan, recipe: Recipe) -> Fp32Model:
    """The fp32 graphs of an earlier plan. Those of plans built before there were features get them here."""
    from .features import with_features
    from .graph import tensor_specs

    manifest = plan.manifest
    for roles in manifest.stage_roles:
        if roles.state != states(*tensor_specs(plan.graph(roles.name, "fp32"))):
            raise CompileError(
                f"{plan.path} carries the states of its {roles.name} stage in another order than this version builds; "
                "build it anew from its weights"
            )
    sampling = replace(manifest.sampling, span_s=recipe.span_s) if recipe.span_s else manifest.sampling
    return Fp32Model(
        model=manifest.model,
        labels=manifest.classes,
        preprocess=manifest.preprocess,
        sampling=sampling,
        weights=manifest.weights,
        graphs={stage: with_features(plan.graph(stage, "fp32")) for stage in manifest.stages},
        versions=manifest.versions,
        head=plan.head(),
        golden=None if recipe.no_golden_windows else read_golden(plan),
    )


def is_shipped(manifest: Manifest) -> bool:
    """Whether a plan holds the weights that come with the package."""
    plans = filter(Path.is_file, shipped.PLANS.values())
    return any(manifest.weights == Plan.open(path).manifest.weights for path in plans)
