"""What the tensors of a stage must look like: each plays a role, and a role says which axes and types there are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import EllipsisType

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
class StageRoles:
    """What the inputs and outputs of a stage are for.

    inputs: tensor -> "image" (N, H, W, 3) uint8, "window" (N, K, ...) of what the stage before gives for a frame (or of
    images), or "state" (N, ...), zeros before the first frame. outputs: tensor -> "tokens" (N, ...) of one frame,
    "logits" (N, C), "features" (N, D) that the logits are made from, or "state".
    state: input -> the output that it is to be for the next frame.
    """

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    state: dict[str, str] = field(default_factory=dict)

    @cached_property
    def main_input(self) -> str:
        """The input that is an image or a window."""
        return next(name for name, role in self.inputs.items() if role != "state")

    @cached_property
    def main_output(self) -> str:
        """The output that is tokens or logits."""
        return next(name for name, role in self.outputs.items() if role in ("tokens", "logits"))

    def output_of(self, role: str) -> str | None:
        """The output of that role, None if there is none."""
        return next((name for name, its in self.outputs.items() if its == role), None)

    @property
    def input_role(self) -> str:
        """ "image" or "window"."""
        return self.inputs[self.main_input]

    @property
    def output_role(self) -> str:
        """ "tokens" or "logits"."""
        return self.outputs[self.main_output]


@dataclass(frozen=True)
class Role:
    """axes: N is the batch; a letter that the manifest knows is that size, any other is any size, and so are ``...``,
    as many axes as there are. dtypes: those allowed."""

    axes: tuple[str | int | EllipsisType, ...]
    dtypes: tuple[str, ...]


INPUTS = {
    "image": Role(("N", "H", "W", 3), ("uint8",)),
    "window": Role(("N", "K", ...), ("uint8", *_FLOATS)),
    "state": Role(("N", ...), _FLOATS),
}
OUTPUTS = {
    "tokens": Role(("N", ...), _FLOATS),
    "logits": Role(("N", "C"), _FLOATS),
    "features": Role(("N", "D"), _FLOATS),
    "state": Role(("N", ...), _FLOATS),
}


def check_interface(
    stages: Sequence[StageRoles], graphs: Iterable[Graph], sizes: Mapping[str, int], phases: int
) -> None:
    """Holds the tensors of all graphs against their roles, the plan's sizes and each other.

    sizes: those that the manifest tells: K, H, W, C. phases: rings of K frames.
    Raises PlanError with the first that does not fit.
    """
    by_kind: dict[str, dict[str, Graph]] = {}
    for graph in graphs:
        by_kind.setdefault(graph.kind, {})[graph.stage] = graph
    shapes: dict[str, list[tuple[int | str, ...]]] = {}
    for kind, by_stage in by_kind.items():
        entry: TensorSpec | None = TensorSpec("", "uint8", ("N", sizes["H"], sizes["W"], 3))  # what a frame is at first
        for roles in stages:
            graph = by_stage.get(roles.name)
            if graph is None:
                entry = None
                continue
            what = f"the {kind} graph of stage {roles.name!r}"
            _check_graph(what, graph, roles, sizes, phases, entry)
            found = [spec.shape for spec in (*graph.inputs, *graph.outputs)]
            if shapes.setdefault(roles.name, found) != found:
                raise PlanError(f"not a sound vlf.plan: {what} has other shapes than that of another kind")
            entry = next(spec for spec in graph.outputs if spec.name == roles.main_output)


def _check_graph(
    what: str, graph: Graph, roles: StageRoles, sizes: Mapping[str, int], phases: int, entry: TensorSpec | None
) -> None:
    """entry: what stands in a window for each frame, None if that is not known."""
    for specs, names, known in ((graph.inputs, roles.inputs, INPUTS), (graph.outputs, roles.outputs, OUTPUTS)):
        if [spec.name for spec in specs] != list(names):
            raise PlanError(f"not a sound vlf.plan: {what} has {_listed(specs)}, expected {', '.join(list(names)[:4])}")
        for spec in specs:
            role = names[spec.name]
            axes, dtypes = known[role].axes, known[role].dtypes
            if role == "window" and entry is not None:
                axes, dtypes = ("N", "K", *entry.shape[1:]), (entry.dtype,)
            if role == "state" and spec.name in roles.state:
                after = next(one for one in graph.outputs if one.name == roles.state[spec.name])
                axes, dtypes = ("N", *after.shape[1:]), (after.dtype,)
            _check_tensor(what, spec, role, axes, dtypes, sizes)
            values = _values(spec) * (phases if role == "window" else 1)
            if values > MAX_VALUES:
                raise PlanError(
                    f"not a sound vlf.plan: {what} has {spec}, which makes {values} values to keep; the limit is "
                    f"{MAX_VALUES}"
                )


def _check_tensor(
    what: str,
    spec: TensorSpec,
    role: str,
    axes: tuple[str | int | EllipsisType, ...],
    dtypes: tuple[str, ...],
    sizes: Mapping[str, int],
) -> None:
    expected = tuple(sizes.get(axis, axis) for axis in axes if axis is not ...)
    open_ended = len(expected) < len(axes)
    fits = len(spec.shape) > len(expected) if open_ended else len(spec.shape) == len(expected)
    fits = fits and spec.dtype in dtypes and (isinstance(spec.shape[0], str) or spec.shape[0] == 1)
    for size, want in zip(spec.shape[1:], (*expected[1:], *("?" for _ in spec.shape))):
        fits = fits and isinstance(size, int) and (isinstance(want, str) or size == want)
    if not fits:
        shown = ", ".join(map(str, (*expected, "...") if open_ended else expected))
        raise PlanError(f"not a sound vlf.plan: {what} has {spec}, expected {role} {' or '.join(dtypes)}({shown})")


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
