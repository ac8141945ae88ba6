"""Motion-13 as a data set: rendered when asked for, through the runtime's own sampler and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from ..errors import VlfError
from ..synthetic import ACTS, CLASSES, HELD_OUT_SEED, MIRRORS, SHIFTS, ActClip, MotionClip
from ..types import Preprocess
from ..video.preprocess import Preprocessor
from .dataset import NO_LABEL, Clip, ClipDataset, Sample
from .frames import segment_indices
from .symmetries import Symmetry

FPS = 30.0
# Clips of one scene in a row of a training set: see symmetries.py.
CLIPS_PER_SCENE = 2
# Every split has 2^38 clips of its own, 2^20 for each of 2^18 seeds.
_FIRST_SEED = {"train": 0, "calibration": 1 << 39, "val": HELD_OUT_SEED, "test": HELD_OUT_SEED + (1 << 38)}
_CLIPS_PER_SEED = 1 << 20
_SEEDS = 1 << 18
# Acts are shifted by up to this part of their height, and so many have other colours.
_SHIFT, _RECOLOURED = 12, 0.3
_COUNT = {"train": 20_000, "calibration": 156, "val": 1300, "test": 2600}


class MotionDataset(ClipDataset):
    """Rendered clips of the 13 classes in turn.

    split: "train", "calibration", "val" or "test"; no two share a clip, and the last two show surfaces of their own.
    seed: other clips of the same kind. limit: number of clips. acts: share of the clips of a training set in which
    people do one of ``ACTS`` made-up acts, each in a scene of its own; these have an act and no label.
    A training set never ends: any index from 0 on is another clip; ``CLIPS_PER_SCENE`` indices in a row share a scene.
    Its ``clips`` and length are those of one epoch. set_progress makes it harder as training goes on.
    Raises VlfError for an unknown split.
    """

    def __init__(
        self,
        split: str,
        *,
        preprocess: Preprocess,
        frames: int,
        span_s: float = 2.0,
        seed: int = 0,
        limit: int | None = None,
        acts: float = 0.0,
    ):
        if split not in _COUNT:
            raise VlfError(f"no split {split!r} of motion; available: {', '.join(_COUNT)}")
        self.name, self.labels, self.targets, self.mirrors = "motion", CLASSES, SHIFTS, MIRRORS
        self.span_s = span_s
        # Training goes on with new clips for as long as it is asked for some: ``len`` is only an epoch.
        self.endless = split == "train"
        self._frames, self._prepare = frames, Preprocessor(preprocess)
        self._sides = (preprocess.short_side_px, 2 * preprocess.short_side_px)
        self._first_seed = _FIRST_SEED[split] + seed % _SEEDS * _CLIPS_PER_SEED
        self._count = limit or _COUNT[split]
        self._acts, self._ease = acts, 0.0
        self._kept: tuple[int, Sample] | None = None

    def __len__(self) -> int:
        return self._count

    @cached_property
    def clips(self) -> Sequence[Clip]:
        """The clips as sources, for playing them live and for calibration."""
        return [Clip(self._url(index), index % len(CLASSES)) for index in range(self._count)]

    def set_progress(self, progress: float) -> None:
        """Training goes from easy clips (0: few things, large, fast, clean motion) to all there are (from 0.6 on)."""
        self._ease = max(0.0, 1 - progress / 0.6)

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        if rng is None:
            return self._render(self._first_seed + index, index % len(CLASSES), None)
        if self._shows_act(index):
            return _seen_otherwise(self._act(index), rng)
        scene = index // CLIPS_PER_SCENE
        if self._kept is None or self._kept[0] != scene:
            draw = np.random.default_rng((self._first_seed, scene))
            seed, label = int(draw.integers(1 << 38)), int(draw.integers(len(CLASSES)))
            self._kept = (scene, self._render(seed, label, draw))
        return self._transformed(self._kept[1], rng)

    def _render(self, seed: int, label: int, rng: np.random.Generator | None) -> Sample:
        width, height, ease = 4 * self._sides[0] // 3, self._sides[0], 0.0
        if rng is not None:
            height = int(rng.integers(self._sides[0], self._sides[1]))
            width = int(height * rng.uniform(1.0, 1.5))
            ease = self._ease
        clip = MotionClip(CLASSES[label], seed, width, height, FPS, self.span_s, ease)
        indices = self._indices(clip.count, rng)
        frames = np.stack([self._prepare(clip.render(i)) for i in indices])
        return Sample(frames, label, np.stack([clip.shift(i, later) for i, later in zip(indices, indices[1:])]))

    def _shows_act(self, index: int) -> bool:
        return self._acts > 0 and np.random.default_rng((self._first_seed, index, 1)).random() < self._acts

    def _act(self, index: int) -> Sample:
        """An act, cut as a live stream is: in even steps. Limbs are thin: they are drawn larger than they are seen."""
        rng = np.random.default_rng((self._first_seed, index, 2))
        seed, act = int(rng.integers(1 << 38)), int(rng.integers(ACTS))
        side_px = int(self._sides[0] * rng.uniform(1.25, 2.25))
        times_s = np.arange(self._frames) * self.span_s / self._frames
        images = ActClip(act, seed, side_px, self.span_s).render(times_s)
        unknown = np.zeros((self._frames - 1, len(SHIFTS)), np.float32)
        return Sample(np.stack([self._prepare(image) for image in images]), NO_LABEL, unknown, act)

    def _indices(self, count: int, rng: np.random.Generator | None) -> np.ndarray:
        """In training, half of the clips are cut as a live stream is: in even steps, from wherever it begins."""
        if rng is not None and rng.random() < 0.5:
            return ((np.arange(self._frames) + rng.random()) * count / self._frames).astype(np.int64)
        return segment_indices(count, self._frames, rng)

    def _transformed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        symmetry = Symmetry.draw(rng)
        return Sample(symmetry.frames(sample.frames), symmetry.label(sample.label), symmetry.shifts(sample.targets))

    def _url(self, index: int) -> str:
        side = self._sides[0]
        return (
            f"test://motion?label={CLASSES[index % len(CLASSES)]}&seed={self._first_seed + index}"
            f"&seconds={self.span_s:g}&width={4 * side // 3}&height={side}"
        )


def _seen_otherwise(sample: Sample, rng: np.random.Generator) -> Sample:
    """An act mirrored or not, a little shifted, and sometimes with its colours exchanged: the same act."""
    frames = sample.frames[:, :, ::-1] if rng.random() < 0.5 else sample.frames
    height, width = frames.shape[1:3]
    most = height // _SHIFT
    top, left = rng.integers(0, 2 * most + 1, 2)
    padded = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    frames = padded[:, top : top + height, left : left + width]
    if rng.random() < _RECOLOURED:
        frames = frames[..., rng.permutation(3)]
    return replace(sample, frames=np.ascontiguousarray(frames))
