"""What the tensors of a stage must look like: each plays a role, and a role says which axes and types there are.

A new kind of model is a row of ``_STAGES``, and one of ``ROLES`` for each tensor of a new kind; nothing else here knows
the name of a stage or of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import PlanError, PlanMismatch
from .types import TensorSpec

MAX_VALUES = 1 << 27  # of one sample of a tensor; of a window, for all phases of its ring together
_FLOATS = ("float32", "float16")


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a plan. kind: "fp32" (source), "portable" (CPU) or "typed" (TensorRT)."""

    stage: str
    kind: str
    member: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Role:
    """axes: a letter is the same size wherever it stands in a plan, and N the batch; a number is that size.
    dtypes: those allowed. like: the role that has the same dtype in the same kind of graph, "" if none has to."""

    axes: tuple[str | int, ...]
    dtypes: tuple[str, ...]
    like: str = ""


ROLES = {
    "image": Role(("N", "H", "W", 3), ("uint8",)),
    "images": Role(("N", "K", "H", "W", 3), ("uint8",)),
    "tokens": Role(("N", "S", "D"), _FLOATS),
    "window": Role(("N", "K", "S", "D"), _FLOATS, like="tokens"),
    "logits": Role(("N", "C"), _FLOATS),
}

# For the stages of a plan: the roles of the inputs and of the outputs of each, in the order of its graphs.
_STAGES: Mapping[tuple[str, ...], Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    ("frame", "clip"): {"frame": (("image",), ("tokens",)), "clip": (("window",), ("logits",))},
    ("clip",): {"clip": (("images",), ("logits",))},
}


def check_interface(names: tuple[str, ...], graphs: Iterable[Graph], sizes: Mapping[str, int], phases: int) -> None:
    """Holds the tensors of all graphs against their roles, the plan's sizes and each other.

    names: the plan's stages. sizes: those of the axes that the manifest tells (K, H, W, C). phases: rings of K frames.
    Raises PlanError with the first that does not fit, PlanMismatch for stages that this version does not know.
    """
    stages = _STAGES.get(names)
    if stages is None:
        known = "; ".join(map(", ".join, _STAGES))
        raise PlanMismatch(
            f"this plan has the stages {', '.join(names)}; this version of vlf_edge knows: {known}"
        )
    sizes = dict(sizes)
    dtypes: dict[tuple[str, str], str] = {}
    for graph in sorted(graphs, key=lambda graph: names.index(graph.stage)):
        for side, specs, roles in zip(("inputs", "outputs"), (graph.inputs, graph.outputs), stages[graph.stage]):
            what = f"the {graph.kind} graph of stage {graph.stage!r}"
            if len(specs) != len(roles) or len({spec.name for spec in specs}) != len(specs):
                raise PlanError(f"not a sound vlf.plan: {what} has the {side} {_listed(specs)}, expected {_any(roles)}")
            for spec, role in zip(specs, roles):
                _check_tensor(what, spec, role, sizes, dtypes, graph.kind)
                values = _values(spec) * (phases if "K" in ROLES[role].axes else 1)
                if values > MAX_VALUES:
                    raise PlanError(
                        f"not a sound vlf.plan: {what} has {spec}, which makes {values} values to keep; the limit is "
                        f"{MAX_VALUES}"
                    )


def _check_tensor(
    what: str, spec: TensorSpec, role: str, sizes: dict[str, int], dtypes: dict[tuple[str, str], str], kind: str
) -> None:
    """sizes, dtypes: those known so far, by axis, and by kind of graph and role; what is new is added."""
    form = ROLES[role]
    fits = len(spec.shape) == len(form.axes) and spec.dtype in form.dtypes
    for axis, size in zip(form.axes, spec.shape) if fits else ():
        if axis == "N":
            fits = fits and (isinstance(size, str) or size == 1)
        elif not isinstance(size, int) or (axis if isinstance(axis, int) else sizes.setdefault(axis, size)) != size:
            fits = False
    dtype = dtypes.setdefault((kind, form.like or role), spec.dtype)
    if not fits or dtype != spec.dtype:
        known = tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in form.axes)
        allowed = dtype if form.like else " or ".join(form.dtypes)
        raise PlanError(
            f"not a sound vlf.plan: {what} has {spec}, expected {role} "
            f"{allowed}({', '.join(map(str, known))}), which are {', '.join(map(str, form.axes))}"
        )


def check_same(what: str, graph: Graph, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
    """Holds what a graph or an engine really takes and gives against what the manifest says of the graph.

    what: for the message. Dynamic axes may have any name. Raises PlanMismatch.
    """
    for side, said, found in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        found = tuple(found)
        if list(map(_form, said)) != list(map(_form, found)):
            raise PlanMismatch(f"{what} has the {side} {_listed(found)}, but the plan says {_listed(said)}")


def _form(spec: TensorSpec) -> tuple[str, str, tuple[int | None, ...]]:
    return spec.name, spec.dtype, tuple(size if isinstance(size, int) else None for size in spec.shape)


def _values(spec: TensorSpec) -> int:
    return math.prod(size for size in spec.shape if isinstance(size, int))


def _listed(specs: Iterable[TensorSpec]) -> str:
    specs = tuple(specs)
    more = f" and {len(specs) - 4} more" if len(specs) > 4 else ""
    return (", ".join(map(str, specs[:4])) + more) or "none"


def _any(roles: tuple[str, ...]) -> str:
    return f"{len(roles)}: {', '.join(roles)}"
