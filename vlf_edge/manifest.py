"""Manifest: everything a vlf.plan says about itself. Files come from strangers, so every type and size is checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from .errors import PlanError, PlanMismatch, VlfError
from .types import Preprocess, Sampling, TensorSpec

FORMAT = 1
PRECISIONS = ("fp32", "fp16", "int8")
GRAPH_KINDS = ("fp32", "portable", "typed")
_MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a plan. kind: "fp32" (source), "portable" (CPU) or "typed" (TensorRT)."""

    stage: str
    kind: str
    member: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


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

    model: name and sizes, as in the model's own dataclass. labels: C class names, in logit order.
    precision: "fp32", "fp16" or "int8". stages: ("frame", "clip"), or ("clip",) for models that mix frames early.
    weights: {"origin": "random" | "file", "sha256": ..., ...}.
    quantization: method, counts, hashes and what stayed in float; empty unless int8.
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
    format: int = FORMAT

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
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Manifest:
        """Checks structure and types; raises PlanError saying which entry is wrong."""
        return _manifest_from_json(raw)


def _manifest_from_json(raw: Any) -> Manifest:
    if not isinstance(raw, dict) or "format" not in raw:
        raise PlanError("not a vlf.plan: manifest.json has no format number")
    if raw["format"] != FORMAT:
        raise PlanMismatch(
            f"plan format {raw['format']!r}; this version of vlf_edge reads format {FORMAT}: upgrade vlf_edge"
        )
    try:
        values = {f.name: raw[f.name] for f in fields(Manifest)}
        values["labels"] = tuple(_label(label) for label in values["labels"])
        values["stages"] = tuple(_checked(stage, str, "stage") for stage in values["stages"])
        values["preprocess"] = Preprocess(**values["preprocess"])
        values["sampling"] = Sampling(**values["sampling"])
        values["graphs"] = tuple(_graph_from_json(graph) for graph in values["graphs"])
        values["engines"] = tuple(_engine_from_json(engine) for engine in values["engines"])
        for name in ("model", "weights", "quantization", "versions", "members"):
            _checked(values[name], dict, name)
        _checked(values["weights"].get("record", {}), dict, "training record")
        for name, entry in values["members"].items():
            _checked(entry["sha256"], str, f"{name} sha256"), _checked(entry["bytes"], int, f"{name} bytes")
        manifest = Manifest(**values)
    except (KeyError, TypeError, ValueError, AttributeError, VlfError) as error:
        raise PlanError(f"not a sound vlf.plan: manifest.json is missing or misstates something ({error!r})") from None
    if manifest.precision not in PRECISIONS:
        raise PlanError(
            f"not a sound vlf.plan: precision {manifest.precision!r}, expected one of {', '.join(PRECISIONS)}"
        )
    for graph in manifest.graphs:
        if graph.stage not in manifest.stages:
            raise PlanError(f"not a sound vlf.plan: a graph of stage {graph.stage!r}, which is none of its stages")
    if not manifest.stages or not 0 < len(manifest.labels) <= _MAX_CLASSES:
        raise PlanError(f"not a sound vlf.plan: {len(manifest.stages)} stages and {len(manifest.labels)} labels")
    return manifest


def _graph_from_json(raw: dict[str, Any]) -> Graph:
    if raw["kind"] not in GRAPH_KINDS:
        raise ValueError(f"graph kind {raw['kind']!r}")
    names = {name: _checked(raw[name], str, name) for name in ("stage", "kind", "member")}
    return Graph(**names, inputs=_specs_from_json(raw["inputs"]), outputs=_specs_from_json(raw["outputs"]))


def _specs_from_json(raw: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = [TensorSpec(_checked(s["name"], str, "name"), np.dtype(s["dtype"]).name, tuple(s["shape"])) for s in raw]
    for spec in specs:
        if not spec.shape or not all(isinstance(n, str) or 0 < _checked(n, int, "size") < 1 << 24 for n in spec.shape):
            raise ValueError(f"tensor {spec}")
    return tuple(specs)


def _engine_from_json(raw: dict[str, Any]) -> EngineInfo:
    names = ("stage", "target", "member", "library", "version", "device")
    return EngineInfo(
        **{name: _checked(raw[name], str, name) for name in names},
        compute_capabilities=tuple(_checked(c, str, "compute capability") for c in raw["compute_capabilities"]),
        **{name: _checked(raw[name], int, name) for name in ("max_batch", "opt_batch")},
    )


def _label(raw: Any) -> str:
    # Labels are printed: control characters would reach the terminal.
    if not _checked(raw, str, "label").isprintable():
        raise ValueError(f"label {raw!r}")
    return raw


def _checked(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{what} is {type(value).__name__}, expected {kind.__name__}")
    return value
