"""What a plan says of clips that show none of its labels, and what that costs those that do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SourceError
from ..head import UNKNOWN
from ..runtime.runtime import Runtime
from ..types import Prediction
from ..video.sources import expand_clips, open_source
from ..video.stretch import Stretch
from . import metrics
from .scores import Progress, Scores, clip_name, rounded

if TYPE_CHECKING:
    from ..datasets import Clip, ClipDataset


def has_unknown(data: str) -> bool:
    """Whether labelled data have a class of what is none of the others."""
    from ..datasets.annotations import read_annotations

    return data != "motion" and UNKNOWN in read_annotations(data).labels


def none_clips(none: Sequence[str], dataset: ClipDataset) -> list[Clip]:
    """The clips of nothing: those behind the names, and those of the class UNKNOWN in the data.

    Raises SourceError for a name behind which there are none.
    """
    from ..datasets import Clip

    found = []
    for one in none:
        names = expand_clips(one)
        if names == [one] and "://" not in one and not os.path.isfile(one):
            raise SourceError(f"no clips of nothing at {one}; expected a video, or a folder or glob of videos")
        found += [Clip(name, None) for name in names]
    if UNKNOWN in dataset.labels:
        number = dataset.labels.index(UNKNOWN)
        found += [clip for clip in dataset.clips if clip.label == number]
    return found


def measure_unknown(
    runtime: Runtime, none: Sequence[Clip], scores: Scores, progress: Progress | None = None
) -> dict[str, Any]:
    """Plays clips of nothing live. Plain JSON values.

    scores: of the labelled clips, in the order of the runtime's labels. Returns misses (the share of clips of the other
    labels that are called unknown; None if the plan does not know that), clips, hours, windows, windows_accepted (the
    share that gets a label), false_accepts (runs of windows with a label, each counted once however long),
    false_accepts_per_hour, auroc (how well the plan's margin for the best label over unknown, or without unknown the
    best probability, tells the labelled clips from these windows) and broken. None where there is nothing to tell.
    """
    knows = runtime.labels[-1] == UNKNOWN
    known = scores.logits[scores.truth < len(runtime.labels) - knows]
    report: dict[str, Any] = {"misses": None, "clips": 0, "broken": {}}
    if knows and len(known):
        report["misses"] = rounded((known.argmax(axis=1) == len(runtime.labels) - 1).mean())
    margins: list[float] = []
    accepted = runs = 0
    seconds = 0.0
    for done, clip in enumerate(none):
        if progress:
            progress("clips of nothing", done, len(none))
        try:
            decided = _play(runtime, clip)
        except SourceError as error:
            report["broken"][clip_name(clip)] = str(error)
            continue
        report["clips"] += 1
        labelled = [prediction.label != UNKNOWN for prediction in decided]
        accepted += sum(labelled)
        runs += sum(now and not before for before, now in zip([False, *labelled], labelled))
        seconds += decided[-1].t_end_s - decided[0].t_start_s if decided else 0.0
        margins += [float(margin) for margin in _margins(np.array([p.logits for p in decided]), knows)]
    if progress and none:
        progress("clips of nothing", len(none), len(none))
    hours = seconds / 3600
    report |= {
        "hours": rounded(hours),
        "windows": len(margins),
        "windows_accepted": rounded(accepted / len(margins)) if margins else None,
        "false_accepts": runs,
        "false_accepts_per_hour": rounded(runs / hours) if hours else None,
        "auroc": rounded(metrics.auroc(_margins(known, knows), np.array(margins))) if margins and len(known) else None,
    }
    return report


def _play(runtime: Runtime, clip: Clip) -> list[Prediction]:
    source = Stretch(open_source(clip.name), clip.start_s, clip.end_s)
    return [prediction for prediction in runtime.stream(source) if prediction.state == "ok"]


def _margins(logits: np.ndarray, knows: bool) -> np.ndarray:
    """(n, C) -> (n,): how much speaks for a label."""
    if len(logits) == 0:
        return np.zeros(0)
    if knows:
        return logits[:, :-1].max(axis=1) - logits[:, -1]
    return metrics.log_softmax(logits).max(axis=1)
