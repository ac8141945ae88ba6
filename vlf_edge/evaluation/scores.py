"""What a classifier says of every clip of a data set, and the figures that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SourceError, VlfError
from ..runtime.stats import Stats
from ..video.sources import open_source
from ..video.stretch import Stretch
from . import metrics
from .classifier import Classifier, EngineClassifier, columns_of

if TYPE_CHECKING:
    from ..datasets import Clip, ClipDataset, Sample

Progress = Callable[[str, int, int], None]
TIMED_CLIPS = 200
_WORST = 5
_DIGITS = 6


@dataclass(frozen=True)
class Scores:
    """One row for each clip that could be read, in the order of the data set.

    indices: (n,) int, which clips of the data set. truth: (n,) int, their classes. logits: (n, C) float, in the order
    of the data set's labels. broken: {name of a clip that could not be read: why}.
    """

    indices: np.ndarray
    truth: np.ndarray
    logits: np.ndarray
    broken: dict[str, str] = field(default_factory=dict)

    def only(self, indices: np.ndarray) -> Scores:
        """The rows of these clips. Raises KeyError for a clip that has none."""
        row = {int(index): i for i, index in enumerate(self.indices)}
        rows = [row[int(index)] for index in indices]
        return Scores(self.indices[rows], self.truth[rows], self.logits[rows], self.broken)


def clip_name(clip: Clip) -> str:
    """A clip as a person finds it again: its file, and the stretch of it if it is not the whole."""
    if not clip.start_s and clip.end_s is None:
        return clip.name
    return f"{clip.name} [{clip.start_s:g} s to {'the end' if clip.end_s is None else f'{clip.end_s:g} s'}]"


def score(
    models: Sequence[Classifier],
    dataset: ClipDataset,
    *,
    batch: int = 8,
    stats: Stats | None = None,
    progress: Progress | None = None,
) -> list[Scores]:
    """Runs the test-time window of every clip through classifiers that see it alike: one Scores each. One that decides
    by windows gets all those of the clip instead, if it has any.

    batch: frames, windows and clips taken at a time. stats: is given the durations "frame_stage", "clip_stage" and
    "decision" of the first classifier on the first 200 clips, as in a live stream: one new frame, one window.
    progress: called with ("clips", done, total). Broken clips are left out and named. Raises SourceError if none can be
    read, VlfError if the data set is empty or a classifier has other classes.
    """
    if len(dataset) == 0:
        raise VlfError(f"{dataset.name} has no clips to evaluate")
    columns = [columns_of(dataset.labels, model) for model in models]
    broken: dict[str, str] = {}
    whole = dataset.clips if any(model.by_windows for model in models) else ()
    indices, truth, logits = [], [], [[] for _ in models]
    for group in _groups(_samples(dataset, broken, progress), batch):
        indices += [index for index, _ in group]
        truth += [sample.label for _, sample in group]
        clips = np.stack([sample.frames for _, sample in group])
        for model, order, parts in zip(models, columns, logits):
            if model.by_windows:
                decided = np.stack([_by_windows(model, whole[i], sample.frames) for i, sample in group])
            else:
                decided = model.classify(clips, batch)
            parts.append(decided[:, order])
        if stats is not None and len(indices) - len(group) < TIMED_CLIPS:
            _time(models[0], clips[:1], Stats())  # the first calls of a new batch size are slow, and no stream's
            _time(models[0], clips, stats)
    if not indices:
        raise SourceError(
            f"none of the {len(dataset)} clips of {dataset.name} can be read: {next(iter(broken.values()))}"
        )
    return [Scores(np.array(indices), np.array(truth), np.concatenate(parts), broken) for parts in logits]


def summarize(scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """Plain JSON values: clips, broken, top1, top5, class_recall (mean over the classes that have clips),
    calibration_error, per_class {label: {clips, recall}}, confusion (C, C) and the worst confusions. Shares are 0..1;
    the recall of a class without clips is None. Raises VlfError for NaN logits."""
    confusion = metrics.confusion_matrix(scores.logits, scores.truth)
    recall = metrics.class_recall(confusion)
    return {
        "clips": len(scores.truth),
        "broken": scores.broken,
        "top1": rounded(metrics.top_k(scores.logits, scores.truth)),
        "top5": rounded(metrics.top_k(scores.logits, scores.truth, 5)),
        "class_recall": rounded(np.nanmean(recall)),
        "calibration_error": rounded(metrics.calibration_error(scores.logits, scores.truth)),
        "per_class": {
            label: {"clips": int(row.sum()), "recall": rounded(value)}
            for label, row, value in zip(labels, confusion, recall)
        },
        "worst_confusions": _worst(confusion, labels),
        "confusion": confusion.tolist(),
    }


def contrast(reference: Scores, scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """How far ``scores`` are from ``reference`` on the clips that both could read, as plain JSON values.

    clips, top1 and reference_top1 on those clips, agreement (share of equal decisions), kl_nats (mean KL(reference ||
    scores)), max_abs_logits, per_class {label: recall - reference's recall, None without clips}. Raises VlfError if
    there is no such clip, or the two do not mean the same clips.
    """
    common = np.intersect1d(reference.indices, scores.indices)
    if len(common) == 0:
        raise VlfError("there is nothing to compare: no clip could be read for both the plan and its reference")
    a, b = reference.only(common), scores.only(common)
    if not np.array_equal(a.truth, b.truth):
        raise VlfError("the clips read for the reference are not those read for the plan: their classes differ")
    recalls = [metrics.class_recall(metrics.confusion_matrix(s.logits, s.truth)) for s in (a, b)]
    return {
        "clips": len(common),
        "top1": rounded(metrics.top_k(b.logits, b.truth)),
        "reference_top1": rounded(metrics.top_k(a.logits, a.truth)),
        "agreement": rounded(metrics.agreement(a.logits, b.logits)),
        "kl_nats": rounded(metrics.divergence(a.logits, b.logits)),
        "max_abs_logits": rounded(metrics.max_abs(a.logits, b.logits)),
        "per_class": {label: rounded(mine - other) for label, other, mine in zip(labels, *recalls)},
    }


def rounded(value: float) -> float | None:
    """To 6 digits, as reports keep numbers; NaN, which JSON lacks, is None."""
    return None if math.isnan(value) else float(f"{value:.{_DIGITS}g}")


def _samples(dataset: ClipDataset, broken: dict[str, str], progress: Progress | None) -> Iterator[tuple[int, Sample]]:
    clips = dataset.clips  # asked for once: a rendered set makes the list anew each time
    for index in range(len(dataset)):
        if progress:
            progress("clips", index, len(dataset))
        try:
            sample = dataset.sample(index, None)
        except SourceError as error:
            broken[clip_name(clips[index])] = str(error)
            continue
        yield index, sample
    if progress:
        progress("clips", len(dataset), len(dataset))


def _by_windows(model: Classifier, clip: Clip, frames: np.ndarray) -> np.ndarray:
    """The logits (C,) of a clip. frames: from all of it, for one that has no window."""
    with Stretch(open_source(clip.name), clip.start_s, clip.end_s) as source:
        decided = model.classify_windows(source)
    return model.classify(frames[np.newaxis])[0] if decided is None else decided


def _groups(items: Iterator[tuple[int, Sample]], size: int) -> Iterator[list[tuple[int, Sample]]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _time(model: EngineClassifier, clips: np.ndarray, stats: Stats) -> None:
    """One live decision for each clip: its newest frame alone through the frame stage, then one window. Which tokens
    fill the window makes no difference to the time."""
    for clip in clips:
        with stats.timed("decision"):
            window = clip[np.newaxis]
            if model.encodes:
                with stats.timed("frame_stage"):
                    tokens = model.encode(clip[-1:])
                window = np.repeat(tokens[np.newaxis], len(clip), axis=1)
            with stats.timed("clip_stage"):
                model.decide(window)


def _worst(confusion: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The largest entries off the diagonal, by number of clips."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    pairs = [divmod(int(place), len(confusion)) for place in order if wrong.flat[place]]
    return [{"truth": labels[t], "decided": labels[d], "clips": int(wrong[t, d])} for t, d in pairs]
