"""Which int8 nodes cost most: each one alone goes back to float, and the logits tell what that gains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from ..quantization.convert import Int8, Node
from .fidelity import Encoded, Reference, Stages, compare, decide, encode
from .runners import open_stage

# The ranking needs no more: it compares errors of one and the same set of windows.
MAX_WINDOWS = 32
_NONFINITE = 1e9  # stands for an error of NaN or infinity, which JSON has not


@dataclass(frozen=True)
class Effect:
    """What a node in float gains. error: relative error of the logits, end to end, with this node alone in float;
    gain: how much less that is than with all nodes in int8."""

    stage: str
    node: str
    error: float
    gain: float

    @property
    def key(self) -> Node:
        """(stage, name of the node)."""
        return self.stage, self.node


def effects(
    int8: Int8, reference: Reference, runner: str, progress: Callable[[int, int], None] | None = None
) -> list[Effect]:
    """All int8 nodes, the one whose return to float helps the logits most first; equal ones in graph order.

    reference: held-out windows; at most MAX_WINDOWS of them are used. runner: what runs the graphs, see ``open_stage``.
    progress: called with (nodes done, nodes in all).
    """
    reference, nodes = reference.only(MAX_WINDOWS), int8.nodes()
    full = {stage: int8.stage(stage).onnx for stage in int8.ranges}
    found = []
    with ExitStack() as opened:
        stages = {stage: opened.enter_context(open_stage(runner, data, "int8")) for stage, data in full.items()}
        entries = encode(stages, reference.frames, reference.windows)
        everything = _error(reference, stages, entries)
        for done, (stage, node) in enumerate(nodes):
            if progress:
                progress(done, len(nodes))
            with open_stage(runner, int8.stage(stage, {node}).onnx, "int8") as variant:
                changed = {**stages, stage: variant}
                anew = stage == "frame"
                encoded = encode(changed, reference.frames, reference.windows) if anew else entries
                error = _error(reference, changed, encoded)
            found.append(Effect(stage, node, error, everything - error))
    if progress:
        progress(len(nodes), len(nodes))
    return sorted(found, key=lambda effect: -effect.gain)


def _error(reference: Reference, stages: Stages, entries: Encoded) -> float:
    """Relative error of the logits. entries: of these stages."""
    error = compare(reference.logits, decide(stages, entries))["relative"]
    return _NONFINITE if error is None else error
