"""What the user calls a data set -> its labelled clips: rendered ones, or those of videos on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import SourceError, VlfError
from ..types import Preprocess, Sampling
from ..video.sampler import segment_centres
from .annotations import Row, few, read_annotations
from .dataset import Clip, ClipDataset, VideoDataset
from .frames import measure_extent
from .motion import MotionDataset
from .splits import SPLITS, check_labels, choose_rows, divide

LONGEST_SPAN_S = 10.0
_MEASURED_CLIPS = 32


def open_dataset(
    data: str | Path,
    split: str,
    *,
    sampling: Sampling | None = None,
    preprocess: Preprocess,
    frames: int,
    span_s: float | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
    apart: bool = False,
    acts: float = 0.0,
) -> ClipDataset:
    """The labelled clips that the user named.

    data: "motion" for rendered clips, a folder of class/clip.mp4, or an annotation file: see ``annotations``.
    split: "train", "val" or "test"; of files also "all". Data without a test part is tested on its "val"; how data
    without a "val" gets one: see ``splits``. sampling: of a plan; it replaces frames and span_s. frames: K.
    span_s: seconds of a window (default: the median length of the training clips, 10 s at most). labels: those of a
    model, which the data must have too; they then give the order. seed: of what is rendered. limit: at most so many
    clips, evenly from all classes. apart: other data is for validation, or this is that other data: files that nothing
    is said about are not divided, but all for the split asked for. acts: of rendered clips, see ``MotionDataset``.

    Raises SourceError if there is nothing to read, VlfError if the annotation, its classes or an argument is wrong.
    """
    if sampling is not None:
        frames, span_s = sampling.frames, sampling.span_s
    Sampling(frames, LONGEST_SPAN_S if span_s is None else span_s)  # raises for values that make no window
    if limit is not None and limit < 1:
        raise VlfError(f"the limit is {limit} clips, expected 1 or more")
    if str(data) == "motion":
        given = {"preprocess": preprocess, "frames": frames, "seed": seed, "limit": limit, "acts": acts}
        return _of_classes(labels, MotionDataset(split, **given, **({} if span_s is None else {"span_s": span_s})))
    if split not in SPLITS:
        raise VlfError(f"no split {split!r}; available: {', '.join(SPLITS)}")
    return _open_videos(
        data, split, labels, preprocess=preprocess, frames=frames, span_s=span_s, limit=limit, apart=apart
    )


def _open_videos(
    data: str | Path,
    split: str,
    labels: Sequence[str] | None,
    *,
    preprocess: Preprocess,
    frames: int,
    span_s: float | None,
    limit: int | None,
    apart: bool,
) -> ClipDataset:
    annotations = read_annotations(data)
    names = check_labels(annotations, labels)
    number = {label: index for index, label in enumerate(names)}
    rows = choose_rows(annotations, split, limit, apart=apart)
    clips = [Clip(str(row.path), number[row.label], row.start_s, row.end_s) for row in rows]
    if span_s is None:
        span_s = _typical_length_s(divide(annotations, apart=apart)["train"] or rows)
    return VideoDataset(
        str(data), names, clips, preprocess=preprocess, frames=frames, span_s=span_s, missing=annotations.missing
    )


def _typical_length_s(rows: Sequence[Row]) -> float:
    """Median length of the clips, or of some spread evenly over them, since one without an end must be decoded."""
    lengths_s = []
    for index in sorted(set(segment_centres(len(rows), _MEASURED_CLIPS))):
        row = rows[index]
        try:
            end_s = measure_extent(str(row.path))[1] if row.end_s is None else row.end_s
        except SourceError:
            continue  # whoever reads this clip will count and name it
        if end_s > row.start_s:
            lengths_s.append(end_s - row.start_s)
    if not lengths_s:
        raise SourceError(f"none of the clips looked at can be read, {rows[0].path} among them; are they videos?")
    return round(min(float(np.median(lengths_s)), LONGEST_SPAN_S), 3)


def _of_classes(labels: Sequence[str] | None, dataset: MotionDataset) -> MotionDataset:
    """The data set; raises VlfError if a model's labels are not its own."""
    if labels is not None and tuple(labels) != tuple(dataset.labels):
        raise VlfError(
            f"the model's {len(labels)} classes ({few(labels, 20)}) are not the {len(dataset.labels)} of the motion "
            f"set, or not in its order: {', '.join(dataset.labels)}; train a model on motion, or name data of its own"
        )
    return dataset
