"""calibrate_unknown: a trained plan learns to say "unknown", from clips of nothing that it knows.

Its model has no row for that, and needs none: what it is not sure of is unknown. How sure it must be is read from what
it says of those clips.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ..errors import PlanMismatch, VlfError
from ..head import UNKNOWN
from ..plan import Plan, check_output
from .clips import Clips, Progress, list_clips, read_clips
from .lesson import Lesson
from .open_set import enough, upper_bound
from .reading import Reader
from .writing import write_head


def calibrate_unknown(
    plan: str | os.PathLike[str] | Plan,
    none: Clips,
    output: str | os.PathLike[str],
    *,
    false_accepts: float = 0.01,
    progress: Progress | None = None,
    **on: Any,
) -> Plan:
    """Writes the same plan to ``output``, which says "unknown" of what it is not sure of. Needs no features: plans of
    earlier versions can.

    none: clips in which nothing happens that the plan knows. false_accepts: the share of their windows that may be
    taken for something it knows. on: what to run the plan on, see ``open_engines``. The least probability that counts
    from then on is in ``manifest.head.record``. Raises PlanMismatch for a plan that was enrolled, which knows unknown
    already; VlfError if so few windows cannot tell; SourceError.
    """
    plan = plan if isinstance(plan, Plan) else Plan.open(plan)
    manifest = plan.manifest
    if manifest.head is not None and "features" in manifest.head.reads:
        raise PlanMismatch(f"{plan.path} was enrolled: give it clips of other things with vlf-edge enrol and --none")
    if UNKNOWN in manifest.classes:
        raise PlanMismatch(f"{plan.path} was trained with a class {UNKNOWN!r}: it says so already")
    if not 0 < false_accepts < 1:
        raise VlfError(f"false_accepts is {false_accepts}; expected a share of windows above 0 and below 1")
    check_output(output)
    kept = tuple(range(len(manifest.classes))) if manifest.head is None else manifest.head.kept
    with Reader(plan, ("logits",), **on) as reader:
        wanted = {UNKNOWN: list_clips("nothing", none)}
        clips = read_clips(reader, wanted, set(), False, progress or (lambda what, done, total: None))
    logits = np.concatenate([clip.reading.windows for clip in clips])[:, kept]
    if not enough(len(logits), false_accepts):
        needed = math.ceil(1 / false_accepts - 1)
        raise VlfError(
            f"the {len(clips)} clip(s) of nothing have {len(logits)} windows; to hold false accepts to "
            f"{false_accepts:g} of them takes {needed}: give more, or a larger --false-accepts"
        )
    # In probabilities: measured on rendered motion and people doing other things, they tell more than logits do.
    top = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    surest = 1 / np.exp(top).sum(axis=1)
    least = upper_bound(surest, false_accepts)
    labels = manifest.labels if manifest.head is None or not manifest.head.unknown else manifest.labels[:-1]
    lesson = Lesson(
        labels=(*labels, UNKNOWN),
        reads=("logits",),
        kept=kept,
        arrays={"bias": np.array([np.log(least)], np.float32)},
        record={
            "unknown_from": "none clips",
            "unknown_clips": len(clips),
            "none_windows": len(logits),
            "false_accepts_asked": false_accepts,
            "false_accepts": round(float((surest > least).mean()), 5),
            "least_probability": round(least, 4),
        },
    )
    return write_head(plan, output, lesson)
