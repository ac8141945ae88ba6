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

import numpy as np

from ..errors import SourceError
from ..types import Frame, Preprocess
from ..video.preprocess import Preprocessor
from .augment import Augmentation, enlarged, find_mirrors, flip_table
from .frames import measure_extent, pick_frames, read_frames, read_stretch, segment_instants

NO_LABEL = -1
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

    frames: (K, H, W, 3) uint8 BGR, preprocessed. label: index into the data set's labels, NO_LABEL for a clip of an
    act. targets: (K-1, T) float32, what happens from each frame to the next, or None. act: which made-up act it shows,
    NO_LABEL for none.
    """

    frames: np.ndarray
    label: int
    targets: np.ndarray | None = None
    act: int = NO_LABEL


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

    def by_class(self) -> tuple[tuple[int, ...], ...]:
        """The indices of the clips of each class that has some, in the order of the labels."""
        found: dict[int, list[int]] = {}
        for index, clip in enumerate(self.clips):
            found.setdefault(clip.label, []).append(index)
        return tuple(tuple(found[label]) for label in sorted(found))

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
