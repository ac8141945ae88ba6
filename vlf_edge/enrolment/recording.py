"""Recorder: clips of one action, one after another, each after a countdown. Frames in, clips with what moved in them
out.

Plain code without threads, screen or camera; time is that of the frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..manifest import Manifest
from ..types import Frame
from ..video.motion_energy import moved_between
from ..video.preprocess import Preprocessor
from ..video.sampler import Sampler
from .reading import PHASES

_SPANS = 1.5  # of a window: a clip then holds several, and an action that begins late


def usual_seconds(manifest: Manifest) -> float:
    """How long a clip that shows an action to a plan is best, in seconds."""
    return _SPANS * manifest.sampling.span_s


def least_seconds(manifest: Manifest) -> float:
    """How long it must be to hold a window."""
    return (manifest.sampling.frames - 1) * manifest.sampling.step_s


@dataclass(frozen=True)
class Take:
    """A clip that is complete. frames: all of it. moved: as ``Reading.moved``, what enrolling would say of it."""

    frames: list[Frame]
    moved: float

    @property
    def fps(self) -> float:
        """The rate at which the frames really came: cameras seldom keep the one they announce."""
        return (len(self.frames) - 1) / (self.frames[-1].t_s - self.frames[0].t_s)


class Recorder:
    """Takes each frame (``see``); gives a Take when one is complete, and begins the next.

    manifest: of the plan that the clips are for: what moves is measured on the pictures that it would take. seconds:
    how long a clip is. countdown_s: before each.
    """

    def __init__(self, manifest: Manifest, seconds: float, countdown_s: float):
        self._seconds, self._countdown_s = seconds, countdown_s
        self._sampler = Sampler(replace(manifest.sampling, phases=PHASES))
        self._prepare = Preprocessor(manifest.preprocess)
        self._now_s = 0.0
        self._begin_s: float | None = None
        self._start()

    @property
    def recording(self) -> bool:
        """Whether the countdown is over."""
        return bool(self._frames)

    @property
    def doing(self) -> str:
        """What goes on, in a few words; empty before the first frame."""
        if self._begin_s is None:
            return ""
        left_s = self._begin_s - self._now_s
        if left_s > 0:
            return f"in {math.ceil(left_s)}"
        return f"now, for {max(0.0, left_s + self._seconds):.1f} s"

    def see(self, frame: Frame) -> Take | None:
        """The next frame. One that does not belong with those before it begins the clip anew."""
        if self._begin_s is None or frame.begins or frame.t_s < self._now_s:
            self._start()
            self._begin_s = frame.t_s + self._countdown_s
        self._now_s = frame.t_s
        if frame.t_s < self._begin_s:
            return None
        self._frames.append(frame)
        if self._sampler.accept(frame.t_s) is not None:
            image = self._prepare(frame.image)
            self._moved = self._moved if self._before is None else max(self._moved, moved_between(self._before, image))
            self._before = image
        if frame.t_s - self._frames[0].t_s < self._seconds or len(self._frames) < 2:
            return None
        take = Take(self._frames, self._moved)
        self._start()
        return take

    def _start(self) -> None:
        self._begin_s = None
        self._frames: list[Frame] = []
        self._before: np.ndarray | None = None
        self._moved = 0.0
        self._sampler.reset()
