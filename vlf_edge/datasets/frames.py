"""Which frames of a clip stand for it, chosen by time stamps, and reading just those.

A window of time is cut into K equal segments and each gives one instant (temporal segment networks, Wang et al. 2016):
its middle in tests, a random one in training. The frame of an instant is the one a viewer sees then: the newest at or
before it. On a steady frame rate that is what ``Runtime.classify`` takes; on a varying one it stays right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import SourceError
from ..opencv import load_cv2
from ..types import Frame
from ..video.sampler import TOLERANCE_S
from ..video.sources import VIDEO_SUFFIXES, VideoFileSource, open_source

# Decoding this much is faster than a seek, which must decode from the key frame before anyway.
_SEEK_FROM_S = 5.0
_SEEK_MARGIN_S = 1.0


def segment_instants(
    start_s: float, end_s: float, frames: int, span_s: float, draws: np.ndarray | None = None
) -> np.ndarray:
    """(K,) float64: the instants, in seconds, whose frames stand for the stretch from ``start_s`` to ``end_s``.

    A stretch longer than ``span_s`` gives a window of that length, a shorter one is taken whole. draws: (1 + K,)
    numbers in [0, 1) that place the window in the stretch and each instant in its segment; None: all in the middle.
    """
    draws = np.full(1 + frames, 0.5) if draws is None else draws
    length_s = min(end_s - start_s, span_s)
    first_s = start_s + draws[0] * (end_s - start_s - length_s)
    return first_s + (np.arange(frames) + draws[1:]) * (length_s / frames)


def segment_indices(count: int, frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """(K,) int64: like ``segment_instants`` for all of a clip of ``count`` equally spaced frames: their numbers."""
    draws = np.full(frames, 0.5) if rng is None else rng.random(frames)
    # A draw just below 1 may round up to the next segment; after the last there is none.
    return np.minimum(((np.arange(frames) + draws) * count / frames).astype(np.int64), count - 1)


def measure_extent(name: str) -> tuple[float, float]:
    """(when the first frame of a source begins, when the last one ends), seconds on its own clock.

    Decodes all of it: what headers say is too often wrong. Raises SourceError if there is no frame.
    """
    first = last = None
    with open_source(name) as source:
        for last in source:
            first = first or last
        if first is None:
            raise SourceError(f"{name} holds no frames")
        gap_s = (last.t_s - first.t_s) / last.seq if last.seq else 1.0 / source.fps
    return first.t_s, last.t_s + gap_s


def read_frames(name: str, instants_s: Sequence[float], prepare: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(K, H, W, 3) uint8: what ``prepare`` makes of the frame seen at each instant.

    name: anything that ``open_source`` takes. instants_s: K of them, in order. prepare: (h, w, 3) uint8 -> (H, W, 3)
    uint8, called once for each frame used. Only two frames are held at a time. An instant before the first frame takes
    that, one after the last takes the last. Raises SourceError if the source does not open or ends before half of them.
    """
    with closing(_frames_from(name, instants_s[0])) as frames:
        return pick_frames(name, frames, instants_s, prepare)


def pick_frames(
    name: str, frames: Iterable[Frame], instants_s: Sequence[float], prepare: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What ``read_frames`` gives, from frames in hand: those of the source ``name``, in order, the first of them seen
    at or before the first instant. Takes no more of them than it needs."""
    taken: list[np.ndarray] = []
    shown, pixels, longest_gap_s = None, None, 0.0
    for frame in frames:
        while shown and len(taken) < len(instants_s) and frame.t_s > instants_s[len(taken)] + TOLERANCE_S:
            pixels = prepare(shown.image) if pixels is None else pixels
            taken.append(pixels)
        if len(taken) == len(instants_s):
            return np.stack(taken)
        if shown:
            longest_gap_s = max(longest_gap_s, frame.t_s - shown.t_s)
        shown, pixels = frame, None
    _check_end(name, instants_s, shown, longest_gap_s)
    pixels = prepare(shown.image) if pixels is None else pixels
    return np.stack(taken + [pixels] * (len(instants_s) - len(taken)))


def read_stretch(
    name: str, start_s: float, end_s: float, prepare: Callable[[np.ndarray], np.ndarray]
) -> tuple[Frame, ...]:
    """The frames, prepared, that ``pick_frames`` needs for any instants between ``start_s`` and ``end_s``: from the one
    seen at the first to the first after the last. Raises SourceError if the source does not open."""
    kept: list[Frame] = []
    with closing(_frames_from(name, start_s)) as frames:
        for frame in frames:
            if kept and frame.t_s <= start_s + TOLERANCE_S:
                kept.pop()  # nobody sees it any more
            kept.append(replace(frame, image=prepare(frame.image)))
            if frame.t_s > end_s + TOLERANCE_S:
                break
    return tuple(kept)


def _check_end(name: str, instants_s: Sequence[float], last: Frame | None, gap_s: float) -> None:
    """A window that is mostly the last frame again shows nothing of what it is labelled with."""
    if last is None:
        raise SourceError(f"{name} holds no frames")
    # One frame alone says nothing about how long it is seen.
    seen_until_s = last.t_s + gap_s if gap_s else math.inf
    missed = sum(instant > seen_until_s + TOLERANCE_S for instant in instants_s)
    if 2 * missed > len(instants_s):
        raise SourceError(
            f"{name} ends at {last.t_s:.2f} s, but its label is about {instants_s[0]:.2f} s to {instants_s[-1]:.2f} s"
        )


def _frames_from(name: str, t_s: float) -> Iterator[Frame]:
    """The frames of a source, from the one seen at ``t_s`` or one before it to the end."""
    if t_s >= _SEEK_FROM_S and Path(name).suffix.lower() in VIDEO_SUFFIXES:
        with _SeekingVideo(name) as video:
            first = video.seek(t_s - _SEEK_MARGIN_S)
            if first is not None and first.t_s <= t_s:
                yield first
                yield from video
                return
    with open_source(name) as source:
        yield from source


class _SeekingVideo(VideoFileSource):
    def seek(self, t_s: float) -> Frame | None:
        """Jumps to about ``t_s`` > 0 and reads a frame, whose time stamp says where the jump really went.

        None if nothing can be read there, or if the file has no time stamps: then only counting from the start is
        right.
        """
        self._capture.set(load_cv2().CAP_PROP_POS_MSEC, t_s * 1e3)
        self._announced = 0  # what is skipped is not missing
        grabbed = self._grab()
        if grabbed is None or not 0 < grabbed[1] / 1e3 < math.inf:
            return None
        self._last_s = grabbed[1] / 1e3
        return self._frame(grabbed[0], self._last_s)
