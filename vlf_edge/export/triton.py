"""A plan as a model repository of Triton Inference Server: both stages, and an ensemble that runs a whole clip.

How the shapes fit, checked against the sources of Triton's core and of its tensorrt and onnxruntime backends (2026):
- The frame stage is an ordinary batching model, its N hidden in max_batch_size: requests of live streams are batched.
- The ensemble takes one clip and has max_batch_size 0, so its [K, H, W, 3] is the frame stage's [-1, H, W, 3]: Triton
  takes the K images as one batch. For the same reason the clip stage must have max_batch_size 0: its input then is the
  frame stage's [-1, S, D], with K in place of -1. With batching it would be [-1, K, S, D], which nothing here produces.
- What the clip graph itself takes is (1, K, S, D): ``reshape`` adds the 1. On the way out ``reshape`` is not possible
  there: onnxruntime wants the sizes of a non-batching model's outputs to equal the graph's, -1 included, so it says
  [-1, C]. The ensemble drops that axis with a ``reshape`` of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import PlanError, PlanMismatch
from ..manifest import EngineInfo, Manifest
from ..plan import Plan
from ..printable import printable
from ..types import TensorSpec
from .contract import README, about, readme, tensors
from .engines import built_for, engines_of, targets_of
from .folder import Folder, safe_name
from .pbtxt import Symbol, pbtxt

log = logging.getLogger(__name__)

PORTABLE = "cpu"  # the target of `vlf-edge build` that stands for no engine
_ONNX_MAX_BATCH = 8  # as engines have by default; ONNX itself has no limit
_TYPES = {
    "uint8": "TYPE_UINT8", "int8": "TYPE_INT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip
_LABELS = "labels.txt"


def triton_folder(plan: Plan, name: str | None = None, target: str | None = None) -> Folder:
    """<name>_frame, <name>_clip and the ensemble <name>, each with its config.pbtxt; vlf.json and README.txt.

    name: of the ensemble; the model's own by default. target: whose TensorRT engines to take, or "cpu" for the
    portable ONNX graphs; by default the plan's TensorRT engines, or if it has none the graphs.
    Raises PlanMismatch for a plan that Triton cannot serve so, or for engines that do not fit.
    """
    name = _model_name(plan, name)
    source = _graphs(plan) if target == PORTABLE else _engines(plan, target) or _graphs(plan)
    stages = _Stages.of(plan.manifest, source.kind)
    if stages.frames > source.max_batch:
        raise PlanMismatch(
            f"the frame engine takes batches up to {source.max_batch}, but a clip has {stages.frames} images; build it "
            f"anew with: vlf-edge build {plan.path} --target {source.target} --max-batch {stages.frames}"
        )
    labels = "".join(f"{label}\n" for label in plan.manifest.classes).encode()
    models = {f"{name}_frame": "frame", f"{name}_clip": "clip"}
    configs = {
        f"{name}_frame": pbtxt(_frame(f"{name}_frame", stages, source), (*source.comment, *_FRAME_COMMENT)),
        f"{name}_clip": pbtxt(_clip(f"{name}_clip", stages, source), (*source.comment, *_CLIP_COMMENT)),
        name: pbtxt(_ensemble(name, stages), _ENSEMBLE_COMMENT),
    }
    lines = [
        f"{name}: ensemble, clip uint8 [{', '.join(map(str, stages.clip_shape))}] -> logits [{stages.classes}]",
        *(f"{model}: the {stage} stage alone, on {source.backend}" for model, stage in models.items()),
    ]
    files: dict[str, Callable[[], bytes]] = {README: partial(readme, plan, source.kind, lines, _SERVE)}
    for model, config in configs.items():
        files[f"{model}/config.pbtxt"] = partial(bytes, config)
    for model, stage in models.items():
        files[f"{model}/1/{source.filename}"] = partial(plan.read, source.members[stage])
    # Triton wants a version folder of an ensemble too; an empty one would not survive git, or an object store.
    files[f"{name}/1/ensemble.txt"] = partial(bytes, b"The ensemble has no model file of its own.\n")
    for model in (f"{name}_clip", name):
        files[f"{model}/{_LABELS}"] = partial(bytes, labels)
    return Folder(
        files=files,
        about={
            **about(plan),
            "backend": source.backend,
            "target": source.target,
            "ensemble": name,
            "models": [
                {
                    "name": model,
                    "stage": stage,
                    "inputs": tensors(plan.manifest.graph(stage, source.kind).inputs),
                    "outputs": tensors(plan.manifest.graph(stage, source.kind).outputs),
                }
                for model, stage in models.items()
            ],
        },
    )


_FRAME_COMMENT = ("One image a request, or a clip's K at once; what waits together runs together.",)
_CLIP_COMMENT = (
    "One window a request: max_batch_size is 0 so that K rows of the frame stage are one input here. With a batch axis",
    "they would not fit. reshape adds the axis N = 1 that the graph has; the -1 is that axis in its output.",
)
_ENSEMBLE_COMMENT = (
    "One clip of K images -> logits of C classes. max_batch_size is 0: the K of clip is the frame stage's batch axis.",
    "reshape drops the axis N = 1 of the clip stage's output.",
)
_SERVE = "Serve this folder with: tritonserver --model-repository=THIS_FOLDER"


@dataclass(frozen=True)
class _Source:
    """Where the stages' files come from. members: stage -> member of the plan. kind: of the graphs they are of."""

    backend: str
    kind: str
    filename: str
    members: dict[str, str]
    max_batch: int
    target: str
    comment: tuple[str, ...]


@dataclass(frozen=True)
class _Stages:
    """The tensors at the four ends of the two stages. beside: features, which come with the logits: TensorRT's backend
    wants every output of an engine named."""

    image: TensorSpec
    tokens: TensorSpec
    window: TensorSpec
    logits: TensorSpec
    beside: tuple[TensorSpec, ...] = ()

    @property
    def frames(self) -> int:
        return self.window.shape[1]

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @property
    def clip_shape(self) -> tuple[int, ...]:
        return (self.frames, *self.image.shape[1:])

    @classmethod
    def of(cls, manifest: Manifest, kind: str) -> _Stages:
        """Raises PlanMismatch unless they are frame and clip, for any batch; the plan ensures that they fit."""
        if set(manifest.stages) != {"frame", "clip"}:
            raise PlanMismatch(
                f"this plan has the stages {', '.join(manifest.stages)}; Triton gets plans of frame and clip only, "
                "while --onnx and --raw export any"
            )
        carried = manifest.stage_roles[0].state
        if carried:
            raise PlanMismatch(
                f"the frame stage of this plan carries a state from frame to frame ({', '.join(carried)}), and what is "
                "exported for Triton keeps nothing between requests; --onnx and --raw export any"
            )
        frame, clip = manifest.graph("frame", kind), manifest.graph("clip", kind)
        logits = [spec for spec in clip.outputs if manifest.stage_roles[-1].outputs.get(spec.name) == "logits"]
        ends = (frame.inputs, frame.outputs, clip.inputs, logits)
        found = "; ".join(f"{graph.stage}: {[*map(str, (*graph.inputs, *graph.outputs))]}" for graph in (frame, clip))
        if not all(len(end) == 1 and isinstance(end[0].shape[0], str) and end[0].dtype in _TYPES for end in ends):
            raise PlanMismatch(f"a stage for Triton has one input and one output, each with a batch axis, got {found}")
        return cls(*(end[0] for end in ends), beside=tuple(spec for spec in clip.outputs if spec not in logits))


def _model_name(plan: Plan, name: str | None) -> str:
    name = str(plan.manifest.model.get("name", "")) if name is None else name
    try:
        return safe_name(name)
    except PlanError as error:
        raise PlanError(f"no name for the ensemble: {error}; choose one with --triton-name") from None


def _graphs(plan: Plan) -> _Source:
    return _Source(
        backend="onnxruntime",
        kind="portable",
        filename="model.onnx",
        members={stage: plan.manifest.graph(stage, "portable").member for stage in plan.manifest.stages},
        max_batch=max(_ONNX_MAX_BATCH, plan.manifest.sampling.frames),
        target=PORTABLE,
        comment=(
            "The portable ONNX graph: engines of TensorRT-RTX are not for Triton, which loads those of TensorRT.",
        ),
    )


def _engines(plan: Plan, target: str | None) -> _Source | None:
    """The TensorRT engines of a target, or of the only one there is; None if there is none and none was asked for."""
    engines = engines_of(plan, target) if target or plan.manifest.engines else []
    loadable = [engine for engine in engines if engine.library == "tensorrt"]
    if target and not loadable:
        raise PlanMismatch(
            f"target {target!r} is of {engines[0].library}, and Triton loads engines of TensorRT alone; leave out "
            f"--target {target}, or add one with: vlf-edge build {plan.path} --target tensorrt"
        )
    complete: dict[str, dict[str, EngineInfo]] = {}
    for engine in loadable:
        complete.setdefault(engine.target, {}).setdefault(engine.stage, engine)
    complete = {name: stages for name, stages in complete.items() if set(plan.manifest.stages) <= set(stages)}
    if len(complete) > 1:
        raise PlanMismatch(f"{plan.path} holds TensorRT engines for {', '.join(complete)}: choose one with --target")
    if not complete:
        if engines:
            log.info(
                "Triton loads engines of TensorRT alone and needs both stages: exported the portable ONNX, not %s",
                printable(targets_of(engines)),
            )
        return None
    ((name, stages),) = complete.items()
    return _Source(
        backend="tensorrt",
        kind="typed",
        filename="model.plan",
        members={stage: engine.member for stage, engine in stages.items()},
        max_batch=stages["frame"].max_batch if "frame" in stages else 0,
        target=name,
        comment=(
            f"{built_for(next(iter(stages.values())))}.",
            "The server must have the same version of TensorRT, and such a GPU.",
        ),
    )


def _frame(name: str, stages: _Stages, source: _Source) -> dict[str, Any]:
    return {
        "name": name,
        "backend": source.backend,
        "max_batch_size": source.max_batch,
        "input": _tensor(stages.image),
        "output": _tensor(stages.tokens),
        "dynamic_batching": {},
        **_instances(source),
    }


def _clip(name: str, stages: _Stages, source: _Source) -> dict[str, Any]:
    window = stages.window.shape[1:]
    return {
        "name": name,
        "backend": source.backend,
        "max_batch_size": 0,
        "input": {**_tensor(stages.window), "reshape": {"shape": [1, *window]}},
        "output": [
            {**_tensor(stages.logits), "dims": [-1, stages.classes], "label_filename": _LABELS},
            *({**_tensor(spec), "dims": [-1, *spec.shape[1:]]} for spec in stages.beside),
        ],
        **_instances(source),
    }


def _ensemble(name: str, stages: _Stages) -> dict[str, Any]:
    def step(model: str, given: tuple[str, str], *made: tuple[str, str]) -> dict[str, Any]:
        maps = {"input_map": [given], "output_map": made}
        entries = {field: [{"key": own, "value": name} for own, name in pairs] for field, pairs in maps.items()}
        return {"model_name": model, "model_version": -1, **entries}

    beside = [(spec.name, spec.name) for spec in stages.beside]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": {**_tensor(stages.image), "name": "clip", "dims": list(stages.clip_shape)},
        "output": [
            {
                **_tensor(stages.logits),
                "name": "logits",
                "reshape": {"shape": [1, stages.classes]},
                "label_filename": _LABELS,
            },
            *({**_tensor(spec), "reshape": {"shape": [1, *spec.shape[1:]]}} for spec in stages.beside),
        ],
        "ensemble_scheduling": {
            "step": [
                step(f"{name}_frame", (stages.image.name, "clip"), (stages.tokens.name, "tokens")),
                step(f"{name}_clip", (stages.window.name, "tokens"), (stages.logits.name, "logits"), *beside),
            ]
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """Without its batch axis."""
    return {"name": spec.name, "data_type": Symbol(_TYPES[spec.dtype]), "dims": list(spec.shape[1:])}


def _instances(source: _Source) -> dict[str, Any]:
    """An engine needs a GPU; ONNX Runtime takes one if the server has it."""
    return {"instance_group": {"count": 1, "kind": Symbol("KIND_GPU")}} if source.backend == "tensorrt" else {}
