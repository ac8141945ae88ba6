"""The ring of a stream: each frame is encoded once, what came of it is kept until no window needs it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..types import Sampling


class Window(NamedTuple):
    """K entries of one phase that lie side by side, from ``first`` on, oldest first, and the times of both ends."""

    phase: int
    first: int
    t_start_s: float
    t_end_s: float


class Ring:
    """Says where the last K grid instants of each of P phases lie, and when they were.

    It is bookkeeping alone: the executor keeps the entries, in an array of ``shape`` entries.
    Every entry has two places, K apart, in a row of 2 K for its phase: so any K consecutive entries lie side by side,
    and a window is a view, not a copy.
    """

    def __init__(self, sampling: Sampling):
        self._frames, self._phases = sampling.frames, sampling.phases
        self.shape = self._phases, 2 * self._frames
        self._times_s = np.zeros(self.shape)
        self.clear()

    def clear(self) -> None:
        """Forgets everything; any instant may come next."""
        self._next: int | None = None
        self._held = 0

    def continues(self, instant: int) -> bool:
        """Whether an instant may come next: instants come in order, without holes."""
        return self._next is None or instant == self._next

    def place(self, instant: int, t_s: float) -> tuple[int, tuple[int, int]]:
        """The phase and the two places of a grid instant, which must continue the ring."""
        if not self.continues(instant):
            raise ValueError(f"instant {instant} written, expected {self._next}: the ring keeps no holes")
        phase, slot = instant % self._phases, instant // self._phases % self._frames
        places = slot, slot + self._frames
        for place in places:
            self._times_s[phase, place] = t_s
        self._next = instant + 1
        self._held += 1
        return phase, places

    @property
    def empty(self) -> bool:
        """True if the next instant begins a window."""
        return self._held == 0

    @property
    def full(self) -> bool:
        """True if the newest instant completes a window."""
        return self._held > (self._frames - 1) * self._phases

    def newest(self) -> Window:
        """The newest window. Call only when ``full``."""
        newest = self._next - 1
        phase, slot = newest % self._phases, newest // self._phases % self._frames
        times_s = self._times_s[phase, slot + 1 : slot + 1 + self._frames]
        return Window(phase, slot + 1, float(times_s[0]), float(times_s[-1]))
