"""enrol: a plan and a few clips of each label in, a plan that decides between these labels out.

    clips --Reader--> windows' features --Statistics.fit--> weight, bias --left out clips--> temperature, thresholds

Graphs and engines stay as they are: only the head is new. It has a row for each label and one for all that is none of
them: "unknown" is a label that is taught like the others, and then made harder or easier to get.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from ..errors import PlanMismatch, VlfError
from ..head import UNKNOWN
from ..plan import Plan, check_output
from .clips import Clips, Progress, check_labels, list_clips, mirrored_labels, read_clips
from .kept import read_kept
from .lesson import teach
from .memory import Taught, features_of
from .open_set import why_not_held
from .reading import Reader
from .writing import write_head

log = logging.getLogger(__name__)


def enrol(
    plan: str | os.PathLike[str] | Plan,
    actions: Mapping[str, Clips],
    output: str | os.PathLike[str],
    *,
    none: Clips | None = None,
    keep: str | None = None,
    false_accepts: float = 0.01,
    mirror: bool = True,
    backend: str = "auto",
    device: int = 0,
    rebuild: str = "auto",
    cuda_graph: bool = True,
    threads: int | None = None,
    self_test: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """Teaches a plan labels from a few clips of each, and writes it to ``output``. Takes seconds and no PyTorch.

    actions: {label: clips}, each a folder, a file, a glob or several of these; five clips or more are good. Labels that
    the plan was taught before stay, and get these clips too. none: clips in which nothing of this happens, as many as
    can be had: what "unknown" is. keep: clips of the classes that the model was trained for ("motion", or what
    ``open_dataset`` takes), which then stay beside the new labels; None: they go.
    false_accepts: the share of windows of other things that may be taken for one of the labels. mirror: whether mirror
    images of clips are taught too, where a label does not speak of sides; False for labels that do so in a language
    other than English. backend, device, rebuild, cuda_graph, threads: see ``open_engines``. progress: called with
    (what, done, total).

    What was found is in ``manifest.head.record`` of the plan that is returned. Raises PlanMismatch for a plan that
    gives no features, SourceError for clips that cannot be read, VlfError for labels or clips that teach nothing.
    """
    plan = plan if isinstance(plan, Plan) else Plan.open(plan)
    progress = progress or (lambda what, done, total: None)
    check_share(false_accepts)
    check_enrollable(plan)
    check_labels(list(actions))
    check_output(output)
    before = Taught.of(plan)
    wanted = {label: list_clips(label, clips) for label, clips in actions.items()}
    if none is not None:
        wanted[UNKNOWN] = list_clips("nothing", none)
    labels = [*before.labels, *(label for label in actions if label not in before.labels)]
    answer = ("features", "logits") if keep else ("features",)
    options: dict[str, Any] = {"backend": backend, "device": device, "rebuild": rebuild, "self_test": self_test}
    with Reader(plan, answer, **options, cuda_graph=cuda_graph, threads=threads) as reader:
        mirrored = mirrored_labels(labels, plan.manifest.labels) if mirror else set()
        # Of kept classes one may be that nothing moves.
        still = none is None and not before.unknown_from_clips and not (keep or before.kept)
        clips = read_clips(reader, wanted, mirrored, still, progress)
        kept = read_kept(reader, plan, keep, labels, progress) if keep else []
    lesson = teach(before, labels, clips, kept, plan.manifest.classes, false_accepts)
    if why := why_not_held(lesson.record):
        log.warning(why)
    return write_head(plan, output, lesson)


def check_share(false_accepts: float) -> None:
    """Raises VlfError for what is no share of windows."""
    if not 0 < false_accepts < 1:
        raise VlfError(
            f"false_accepts is {false_accepts}; expected a share of windows above 0 and below 1, such as 0.01"
        )


def check_enrollable(plan: Plan) -> None:
    """Raises PlanMismatch for a plan without features, with the command that gives it some."""
    if features_of(plan.manifest):
        return
    manifest = plan.manifest
    clips = " --calib-data CLIPS" if manifest.precision == "int8" else ""
    raise PlanMismatch(
        f"nothing can be enrolled on {plan.path}: it was built before plans gave features",
        remedy=f"build it anew from its own graphs, without PyTorch: vlf-edge build {plan.path} --precision "
        f"{manifest.precision}{clips} --output NEW.plan",
    )
