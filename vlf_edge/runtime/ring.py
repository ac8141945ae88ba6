"""The ring between the two stages: each frame is encoded once, its tokens are kept until no window needs them."""

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
    """Where the last K grid instants of each of P phases lie, and when they were. What lies there is another's affair.

    Every entry has two places, K apart, in a row of 2 K for its phase: so any K consecutive entries lie side by side,
    and a window is a view, not a copy.
    """

    def __init__(self, sampling: Sampling):
        self._frames, self._phases = sampling.frames, sampling.phases
        self._times_s = np.zeros((self._phases, 2 * self._frames))
        self.reset()

    def reset(self) -> None:
        """Forgets everything; the next instant must be 0."""
        self._written = 0

    def place(self, instant: int, t_s: float) -> tuple[int, tuple[int, int]]:
        """The phase and the two places of a grid instant. Instants come in order, without holes."""
        if instant != self._written:
            raise ValueError(f"instant {instant} written, expected {self._written}: the ring keeps no holes")
        phase, slot = instant % self._phases, instant // self._phases % self._frames
        places = slot, slot + self._frames
        self._times_s[phase, places] = t_s
        self._written += 1
        return phase, places

    @property
    def full(self) -> bool:
        """True if the newest instant completes a window."""
        return self._written > (self._frames - 1) * self._phases

    def newest(self) -> Window:
        """The newest window. Call only when ``full``."""
        newest = self._written - 1
        phase, slot = newest % self._phases, newest // self._phases % self._frames
        times_s = self._times_s[phase, slot + 1 : slot + 1 + self._frames]
        return Window(phase, slot + 1, float(times_s[0]), float(times_s[-1]))


class FeatureRing(Ring):
    """A ring of tokens (S, D) in the computer's own memory."""

    def __init__(self, sampling: Sampling, token_shape: tuple[int, ...], dtype: np.dtype | str):
        super().__init__(sampling)
        self._tokens = np.zeros((self._phases, 2 * self._frames, *token_shape), dtype)

    def write(self, instant: int, tokens: np.ndarray, t_s: float) -> None:
        """Stores the tokens (S, D) that serve a grid instant. Instants come in order, without holes."""
        phase, places = self.place(instant, t_s)
        for place in places:
            self._tokens[phase, place] = tokens

    def window(self) -> tuple[np.ndarray, float, float]:
        """The newest window: tokens (1, K, S, D), oldest first, and the times of its first and last frame.

        The tokens are a view, valid until the next write. Call only when ``full``.
        """
        phase, first, t_start_s, t_end_s = self.newest()
        return self._tokens[phase, first : first + self._frames][np.newaxis], t_start_s, t_end_s
