"""The accuracy gate: what a plan may lose against fp32, and the fewest nodes that must go back to float for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..recipe import MIN_SAMPLES

if TYPE_CHECKING:
    from .fidelity import Reference

_Node = TypeVar("_Node")


@dataclass(frozen=True)
class Verdict:
    """How a plan stands to its gate.

    measure: "accuracy" (points of accuracy lost on windows of known class) or "agreement" (per cent of all windows that
    are decided otherwise than by fp32). windows: how many were counted. drop_points: of the worst way of running it on
    this machine, named by way; None where that gives NaN. max_drop_points: what is allowed.
    """

    passed: bool
    measure: str
    windows: int
    drop_points: float | None
    way: str
    max_drop_points: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return verdict_text(asdict(self))


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """A verdict, as JSON, in words."""
    if verdict["drop_points"] is None:
        return f"{verdict['way']} gives NaN or infinity"
    if verdict["measure"] == "accuracy":
        what = f"accuracy drops by {verdict['drop_points']:g} points on {verdict['way']}"
    else:
        what = f"{verdict['drop_points']:g} % of the decisions differ on {verdict['way']}"
    windows, most = verdict["windows"], verdict["max_drop_points"]
    return f"{what}, at most {most:g} allowed ({windows} windows: one is {100 / windows:.2g})"


def judge(rows: Sequence[Mapping[str, Any]], reference: Reference, max_drop: float) -> Verdict:
    """Judges by the worst of all rows (see ``draft.measure``): whoever gets the plan may run it in any of these ways.

    Accuracy counts where at least 16 windows have a known class, agreement elsewhere. One window is always allowed to
    differ, unless max_drop is 0 or less: anything finer cannot be told from chance. Rows of ways that failed to run are
    passed over.
    """
    labelled = reference.labelled >= MIN_SAMPLES
    windows = reference.labelled if labelled else len(reference.windows)
    drops = {}
    for row in rows:
        if "end_to_end" in row:
            errors = row["end_to_end"]
            share = errors["accuracy" if labelled else "top1_agreement"]
            drops[row["way"]] = math.inf if share is None else (reference.accuracy() if labelled else 1.0) - share
    way = max(drops, key=drops.__getitem__)
    allowed = math.floor(max_drop / 100 * windows + 1e-9)
    if max_drop > 0:
        allowed = max(allowed, 1)
    lost = drops[way]
    return Verdict(
        passed=math.isfinite(lost) and round(lost * windows) <= allowed,
        measure="accuracy" if labelled else "agreement",
        windows=windows,
        drop_points=round(100 * lost, 2) if math.isfinite(lost) else None,
        way=way,
        max_drop_points=max_drop,
    )


def fewest(ranked: Sequence[_Node], most: int, passes: Callable[[Sequence[_Node]], bool]) -> Sequence[_Node] | None:
    """The shortest beginning of ``ranked`` that passes, of 1 to ``most`` items; None if ``most`` of them do not.

    Found by bisection: that a longer beginning passes where a shorter one does is assumed, not checked; what is
    returned did pass.
    """
    if most < 1 or not passes(ranked[:most]):
        return None
    fails, good = 0, most
    while good - fails > 1:
        middle = (fails + good) // 2
        if passes(ranked[:middle]):
            good = middle
        else:
            fails = middle
    return ranked[:good]
