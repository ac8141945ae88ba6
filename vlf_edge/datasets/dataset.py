"""Labelled clips, and the windows of them that a model is trained and judged on.

A window covers ``span_s`` seconds and is cut into K equal segments; one frame of each stands for it: the middle one in
tests, a random one in training. A longer clip gives a window of ``span_s`` (from its centre in tests, from anywhere in
training), a shorter one is taken whole.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SourceError, VlfError
from ..types import Frame, Preprocess, Sampling
from ..video.preprocess import Preprocessor
from ..video.sampler import segment_centres
from .annotations import Row, few, read_annotations
from .augment import Augmentation, enlarged, find_mirrors, flip_table
from .frames import measure_extent, pick_frames, read_frames, read_stretch, segment_instants
from .splits import SPLITS, check_labels, choose_rows, divide

LONGEST_SPAN_S = 10.0
_MEASURED_CLIPS = 32
_KEPT_AT_ONCE = 8


@dataclass(frozen=True)
class Clip:
    """One labelled stretch of a source.

    name: anything ``open_source`` takes that ends. label: index into the data set's labels, None if not known.
    start_s, end_s: on the source's own clock; end_s None: to the end.
    """

    name: str
    label: int | None
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Sample:
    """What a model sees of a clip, and what it should say.

    frames: (K, H, W, 3) uint8 BGR, preprocessed. label: index into the data set's labels. targets: (K-1, T) float32,
    what happens from each frame to the next, or None.
    """

    frames: np.ndarray
    label: int
    targets: np.ndarray | None = None


class ClipDataset(ABC):
    """Labelled clips of one split.

    name: what the user called it. labels: C class names. clips: the labelled stretches. targets: names of the T
    values of ``Sample.targets``, if any. span_s: seconds that one window covers. mirrors: label <-> label under a
    horizontal flip, labels that are not in it stay what they are; None: a flip would give some class a meaning that no
    class has.
    """

    name: str
    labels: tuple[str, ...]
    clips: Sequence[Clip]
    targets: tuple[str, ...] = ()
    span_s: float
    mirrors: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def keep(self, most_bytes: int, threads: int = 1) -> bool:
        """Reads all clips once and holds what training draws its samples from, if that takes ``most_bytes`` at most;
        samples stay what they were. Processes forked afterwards share the memory. True if it is held."""
        return False

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        """One window of clip ``index``.

        rng None: the fixed window of tests. rng given: training, with jitter and augmentation; equal generators give
        equal samples. Raises SourceError, naming it, for a clip that is broken.
        """


class VideoDataset(ClipDataset):
    """Clips in video files.

    frames: K. mirrors: see ClipDataset; found in the labels where they are English. missing: files that were named but
    are not there.
    """

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        clips: Sequence[Clip],
        *,
        preprocess: Preprocess,
        frames: int,
        span_s: float,
        missing: Sequence[str] = (),
    ):
        self.name, self.labels, self.clips, self.span_s = name, tuple(labels), tuple(clips), span_s
        self.missing = tuple(missing)
        self.mirrors = find_mirrors(self.labels)
        self._frames = frames
        self._preprocess, self._larger = preprocess, enlarged(preprocess)
        self._augment = Augmentation(preprocess.height_px, preprocess.width_px, flip_table(self.labels, self.mirrors))
        # Extents are measured once each. Worker processes that are forked from this one share the memory, so that what
        # one has measured the others and those of the next epoch know too; elsewhere each measures for itself.
        shared = mmap.mmap(-1, max(1, 16 * len(self.clips)))
        self._extents_s = np.frombuffer(shared, np.float64, 2 * len(self.clips)).reshape(-1, 2)
        self._extents_s[:] = np.nan
        self._kept: dict[int, tuple[Frame, ...]] = {}

    def keep(self, most_bytes: int, threads: int = 1) -> bool:
        kept: dict[int, tuple[Frame, ...]] = {}
        prepare, total = Preprocessor(self._larger), 0

        def read(index: int) -> tuple[Frame, ...]:
            try:
                return read_stretch(self.clips[index].name, *self._stretch(index), prepare)
            except SourceError:
                return ()  # named and counted when it is asked for

        # A few at a time: what the first ones take says early whether all of them fit.
        with ThreadPoolExecutor(threads) as pool:
            for begin in range(0, len(self), _KEPT_AT_ONCE):
                indices = range(begin, min(begin + _KEPT_AT_ONCE, len(self)))
                kept.update(zip(indices, pool.map(read, indices)))
                total += sum(frame.image.nbytes for index in indices for frame in kept[index])
                if total * len(self) > most_bytes * len(kept):
                    return False
        self._kept = {index: frames for index, frames in kept.items() if frames}
        return True

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        clip = self.clips[index]
        start_s, end_s = self._stretch(index)
        draws = None if rng is None else rng.random(1 + self._frames)
        instants_s = segment_instants(start_s, end_s, self._frames, self.span_s, draws)
        if rng is None:
            return Sample(read_frames(clip.name, instants_s, Preprocessor(self._preprocess)), clip.label)
        if index in self._kept:
            frames = pick_frames(clip.name, self._kept[index], instants_s, prepare=lambda image: image)
        else:
            frames = read_frames(clip.name, instants_s, Preprocessor(self._larger))
        return Sample(*self._augment(frames, clip.label, rng))

    def _stretch(self, index: int) -> tuple[float, float]:
        """Where the clip begins and ends, s. What an annotation says about the end is taken as it is."""
        clip = self.clips[index]
        if clip.end_s is not None:
            return clip.start_s, clip.end_s
        if np.isnan(self._extents_s[index]).any():
            self._extents_s[index] = measure_extent(clip.name)
        first_s, end_s = map(float, self._extents_s[index])
        if end_s <= clip.start_s:
            raise SourceError(
                f"{clip.name} ends at {end_s:.2f} s, but its label is about what follows {clip.start_s} s"
            )
        return max(clip.start_s, first_s), end_s


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
) -> ClipDataset:
    """The labelled clips that the user named.

    data: "motion" for rendered clips, a folder of class/clip.mp4, or an annotation file: see ``annotations``.
    split: "train", "val" or "test"; of files also "all". Data without a test part is tested on its "val"; how data
    without a "val" gets one: see ``splits``. sampling: of a plan; it replaces frames and span_s. frames: K.
    span_s: seconds of a window (default: the median length of the training clips, 10 s at most). labels: those of a
    model, which the data must have too; they then give the order. seed: of what is rendered. limit: at most so many
    clips, evenly from all classes. apart: other data is for validation, or this is that other data: files that nothing
    is said about are not divided, but all for the split asked for.

    Raises SourceError if there is nothing to read, VlfError if the annotation, its classes or an argument is wrong.
    """
    if sampling is not None:
        frames, span_s = sampling.frames, sampling.span_s
    Sampling(frames, LONGEST_SPAN_S if span_s is None else span_s)  # raises for values that make no window
    if limit is not None and limit < 1:
        raise VlfError(f"the limit is {limit} clips, expected 1 or more")
    if str(data) == "motion":
        return _open_motion(split, labels, preprocess=preprocess, frames=frames, span_s=span_s, seed=seed, limit=limit)
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


def _open_motion(
    split: str,
    labels: Sequence[str] | None,
    *,
    preprocess: Preprocess,
    frames: int,
    span_s: float | None,
    seed: int,
    limit: int | None,
) -> ClipDataset:
    from .motion import MotionDataset

    spans = {} if span_s is None else {"span_s": span_s}
    dataset = MotionDataset(split, preprocess=preprocess, frames=frames, seed=seed, limit=limit, **spans)
    if labels is not None and tuple(labels) != tuple(dataset.labels):
        raise VlfError(
            f"the model's {len(labels)} classes ({few(labels, 20)}) are not the {len(dataset.labels)} of the motion "
            f"set, or not in its order: {', '.join(dataset.labels)}; train a model on motion, or name data of its own"
        )
    return dataset
