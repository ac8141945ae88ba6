"""Manifest: everything a vlf.plan says about itself. Files come from strangers, so every type and size is checked."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from .errors import PlanError, PlanMismatch, VlfError
from .head import MAX_CLASSES, HeadInfo, head_from_json
from .interface import Graph as Graph
from .interface import StageRoles as StageRoles
from .interface import check_interface
from .json_fields import checked as _checked
from .json_fields import listed as _list
from .json_fields import number as _number
from .json_fields import text as _text
from .onnx_graph import DTYPES, MAX_AXES
from .types import Preprocess, Sampling, TensorSpec

# 2: ``roles`` are given. 3: it decides by a ``head``. Plans that need neither are still written as 1, which
# every reader knows.
FORMATS = (1, 2, 3)
INPUT_ROLES = ("image", "window", "state")
OUTPUT_ROLES = ("tokens", "logits", "features", "state")
PRECISIONS = ("fp32", "fp16", "int8")
GRAPH_KINDS = ("fp32", "portable", "typed")
# docs/plan.md gives these, and a test holds it to them.
MAX_STAGES = 8
MAX_PARTS = 256  # graphs, engines, compute capabilities of an engine
MAX_TENSORS = 64  # on each side of a graph
MAX_SIZE = (1 << 24) - 1  # of one axis
MAX_BATCH = 65_536
_SHOWN = 300  # characters of what a message quotes
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EngineInfo:
    """One compiled engine of a plan.

    library: "tensorrt" or "tensorrt_rtx"; version: of that library.
    compute_capabilities: those it was built for, such as ("8.0", "8.6"), "12.1+" for later ones too.
    device: GPU it was built on, "" if none.
    max_batch: the largest N its optimisation profile allows; opt_batch: the one it is fastest at.
    """

    stage: str
    target: str
    member: str
    library: str
    version: str
    compute_capabilities: tuple[str, ...]
    device: str
    max_batch: int
    opt_batch: int = 1


@dataclass(frozen=True)
class Manifest:
    """All that a plan says about itself.

    model: name and sizes, as in the model's own dataclass. labels: what it decides between: C class names, in the order
    of the logits; of a plan with a head, in the order of the head's.
    precision: "fp32", "fp16" or "int8". stages: names, in the order in which they run.
    roles: {stage: {tensor: role}}, see ``StageRoles``; the role of an input that carries a state is "state:OUTPUT".
    Empty: one input and one output each, image -> tokens, window -> logits.
    weights: {"origin": "random" | "file", "sha256": ..., ...}.
    quantization: method, counts, hashes and what stayed in float; empty unless int8.
    head: what it decides by, if that is not the model's last layer.
    versions: of the libraries that made the graphs. members: {name: {"sha256": ..., "bytes": ...}}, set by ``write``.
    """

    model: dict[str, Any]
    labels: tuple[str, ...]
    preprocess: Preprocess
    sampling: Sampling
    precision: str
    stages: tuple[str, ...]
    graphs: tuple[Graph, ...]
    weights: dict[str, Any]
    engines: tuple[EngineInfo, ...] = ()
    quantization: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, dict[str, str]] = field(default_factory=dict)
    head: HeadInfo | None = None

    @property
    def format(self) -> int:
        """The oldest format that says all of this."""
        if self.head is not None:
            return 3
        return 2 if self.roles else 1

    @property
    def classes(self) -> tuple[str, ...]:
        """What the model's own logits are for, in their order."""
        return self.labels if self.head is None else self.head.classes

    @cached_property
    def stage_roles(self) -> tuple[StageRoles, ...]:
        """What the tensors of each stage are for, in the order in which the stages run. Raises PlanError."""
        return tuple(_roles_of(self, stage) for stage in self.stages)

    @property
    def random_weights(self) -> bool:
        """True if nothing was ever trained: labels then mean nothing."""
        return self.weights.get("origin") == "random"

    def graph(self, stage: str, kind: str) -> Graph:
        """The graph of that stage and kind. Raises PlanMismatch naming those that are there."""
        for graph in self.graphs:
            if (graph.stage, graph.kind) == (stage, kind):
                return graph
        have = ", ".join(f"{g.stage}/{g.kind}" for g in self.graphs)
        raise PlanMismatch(f"this plan has no {kind} graph of stage {stage!r}; it has: {have}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` is the inverse."""
        raw = {"format": self.format, **asdict(self)}
        for name, since in (("roles", 2), ("head", 3)):
            if self.format < since:  # the digest of a plan is that of what it said when it was written
                del raw[name]
        return raw

    @classmethod
    def from_json(cls, raw: Any) -> Manifest:
        """Checks structure and types; raises PlanError saying which entry is wrong."""
        return _manifest_from_json(raw)


def _manifest_from_json(raw: Any) -> Manifest:
    if not isinstance(raw, dict) or "format" not in raw:
        raise PlanError("not a vlf.plan: manifest.json has no format number")
    if type(raw["format"]) is not int or raw["format"] not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise PlanMismatch(
            f"plan format {repr(raw['format'])[:40]}; this version of vlf_edge reads {known}: upgrade vlf_edge"
        )
    try:
        raw = {**raw, **({"roles": {}} if raw["format"] < 2 else {}), **({"head": None} if raw["format"] < 3 else {})}
        values = {f.name: raw[f.name] for f in fields(Manifest)}
        values["labels"] = tuple(_text(label, "label") for label in _list(values["labels"], "labels", MAX_CLASSES))
        values["stages"] = tuple(_text(stage, "stage") for stage in _list(values["stages"], "stages", MAX_STAGES))
        values["preprocess"] = Preprocess(**values["preprocess"])
        values["sampling"] = Sampling(**values["sampling"])
        values["graphs"] = tuple(map(_graph_from_json, _list(values["graphs"], "graphs", MAX_PARTS)))
        values["engines"] = tuple(map(_engine_from_json, _list(values["engines"], "engines", MAX_PARTS, least=0)))
        for name in ("model", "weights", "quantization", "versions", "members", "roles"):
            _checked(values[name], dict, name)
        _checked(values["weights"].get("record", {}), dict, "training record")
        for stage, roles in values["roles"].items():
            if stage not in values["stages"]:
                raise ValueError(f"roles of {stage!r}, which is none of its stages")
            for name, role in _checked(roles, dict, "roles").items():
                _text(name, "name of a tensor"), _text(role, f"role of {name}")
        for name, value in values["model"].items():
            _text(name, "name of a size"), isinstance(value, str) and _text(value, name)
        for name, version in values["versions"].items():
            _text(name, "name of a library"), _text(version, f"version of {name}")
        if len(values["members"]) > MAX_PARTS:
            raise ValueError(f"{len(values['members'])} members, expected 0 to {MAX_PARTS}")
        for name, entry in values["members"].items():
            _text(name, "name of a member")
            if not _SHA256.fullmatch(_checked(entry["sha256"], str, f"{name} sha256")):
                raise ValueError(f"{name} sha256 is {entry['sha256']!r}")
            _number(entry["bytes"], f"{name} bytes", 0, 1 << 40)
        if values["precision"] not in PRECISIONS:
            raise ValueError(f"precision {values['precision']!r}, expected one of {', '.join(PRECISIONS)}")
        if raw["format"] > 2:
            values["head"] = head_from_json(_checked(values["head"], dict, "head"))
        _check_parts(values["stages"], values["graphs"], values["engines"])
    except (KeyError, TypeError, ValueError, AttributeError, VlfError) as error:
        # What stands in the file may be of any length; repr shows what cannot be printed as escapes.
        shown = repr(error) if len(repr(error)) <= _SHOWN else f"{repr(error)[:_SHOWN]}..."
        raise PlanError(f"not a sound vlf.plan: manifest.json is missing or misstates something ({shown})") from None
    manifest = Manifest(**values)
    sizes = {
        "H": manifest.preprocess.height_px,
        "W": manifest.preprocess.width_px,
        "K": manifest.sampling.frames,
        "C": len(manifest.classes),
    }
    check_interface(manifest.stage_roles, manifest.graphs, sizes, manifest.sampling.phases)
    if manifest.head is not None:
        _check_head(manifest, manifest.head)
    return manifest


def _check_head(manifest: Manifest, head: HeadInfo) -> None:
    """What a head reads must be what the last stage gives."""
    head.check(manifest.labels)
    if "features" not in head.reads:
        return
    last, weight = manifest.stage_roles[-1], head.array("weight")
    features = last.output_of("features")
    for graph in manifest.graphs:
        if graph.stage == last.name:
            size = next((spec.shape[1] for spec in graph.outputs if spec.name == features), None)
            if weight is None or size != weight.shape[1]:
                raise PlanError(f"not a sound vlf.plan: its head does not fit the {size} features that its model gives")


def _check_parts(stages: tuple[str, ...], graphs: tuple[Graph, ...], engines: tuple[EngineInfo, ...]) -> None:
    for part in (*graphs, *engines):
        if part.stage not in stages:
            raise ValueError(f"{part.member} is of stage {part.stage!r}, which is none of its stages")
    for what, names in (
        ("stages", stages),
        ("graphs", [(graph.stage, graph.kind) for graph in graphs]),
        ("engines", [engine.member for engine in engines]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(f"two {what} of one name")


def _roles_of(manifest: Manifest, stage: str) -> StageRoles:
    graph = next((graph for graph in manifest.graphs if graph.stage == stage), None)
    if graph is None:
        raise PlanError(f"not a sound vlf.plan: it has no graph of its stage {stage!r}")
    given = manifest.roles.get(stage) or _usual_roles(manifest, stage, graph)
    inputs, outputs, state = {}, {}, {}
    for spec in graph.inputs:
        role, _, successor = given.get(spec.name, "").partition(":")
        inputs[spec.name] = role
        if role == "state":
            state[spec.name] = successor
    for spec in graph.outputs:
        outputs[spec.name] = given.get(spec.name, "")
    sound = (
        {*inputs.values()} <= {*INPUT_ROLES}
        and {*outputs.values()} <= {*OUTPUT_ROLES}
        and sum(role != "state" for role in inputs.values()) == 1
        and sum(role in ("tokens", "logits") for role in outputs.values()) == 1
        and sorted(state.values()) == sorted(name for name, role in outputs.items() if role == "state")
        and set(given) <= {*inputs, *outputs}
    )
    if not sound:
        shown = f"{given}"[:_SHOWN]
        raise PlanError(f"not a sound vlf.plan: the roles of stage {stage!r} do not fit its tensors: {shown}")
    return StageRoles(stage, inputs, outputs, state)


def _usual_roles(manifest: Manifest, stage: str, graph: Graph) -> dict[str, str]:
    """Of plans that give none: every stage has one input and one output."""
    first, last = len(manifest.stages) > 1 and stage == manifest.stages[0], stage == manifest.stages[-1]
    tensors = {spec.name: "image" if first else "window" for spec in graph.inputs}
    return tensors | {spec.name: "logits" if last else "tokens" for spec in graph.outputs}


def _graph_from_json(raw: dict[str, Any]) -> Graph:
    if raw["kind"] not in GRAPH_KINDS:
        raise ValueError(f"graph kind {raw['kind']!r}")
    names = {name: _text(raw[name], name) for name in ("stage", "kind", "member")}
    return Graph(**names, inputs=_specs_from_json(raw["inputs"]), outputs=_specs_from_json(raw["outputs"]))


def _specs_from_json(raw: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(map(_spec_from_json, _list(raw, "tensors", MAX_TENSORS)))


def _spec_from_json(raw: dict[str, Any]) -> TensorSpec:
    name, dtype = _text(raw["name"], "name of a tensor"), _text(raw["dtype"], "dtype")
    if dtype not in DTYPES:  # a table, not np.dtype(): that reads a language of its own
        raise ValueError(f"tensor {name} has the dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    shape = tuple(
        _text(size, f"axis of {name}") if isinstance(size, str) else _number(size, f"size of {name}", 1, MAX_SIZE)
        for size in _list(raw["shape"], f"shape of tensor {name}", MAX_AXES)
    )
    return TensorSpec(name, dtype, shape)


def _engine_from_json(raw: dict[str, Any]) -> EngineInfo:
    names = ("stage", "target", "member", "library", "version")
    max_batch = _number(raw["max_batch"], "max_batch", 1, MAX_BATCH)
    return EngineInfo(
        **{name: _text(raw[name], name) for name in names},
        compute_capabilities=tuple(
            _text(capability, "compute capability")
            for capability in _list(raw["compute_capabilities"], "compute capabilities", MAX_PARTS)
        ),
        device=_text(raw["device"], "device", least=0),
        max_batch=max_batch,
        opt_batch=_number(raw["opt_batch"], "opt_batch", 1, max_batch),
    )
