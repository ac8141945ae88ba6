"""The ring between the two stages: each frame is encoded once, its tokens are kept until no window needs them."""

from __future__ import annotations

import numpy as np

from ..types import Sampling


class FeatureRing:
    """Tokens of the last K grid instants of each of P phases.

    Every entry is written twice, K places apart, so that any K consecutive entries lie side by side and a window is a
    view, not a copy.
    """

    def __init__(self, sampling: Sampling, token_shape: tuple[int, ...], dtype: np.dtype | str):
        self._frames, self._phases = sampling.frames, sampling.phases
        self._tokens = np.zeros((self._phases, 2 * self._frames, *token_shape), dtype)
        self._times_s = np.zeros((self._phases, 2 * self._frames))
        self.reset()

    def reset(self) -> None:
        """Forgets everything; the next instant written must be 0."""
        self._written = 0

    def write(self, instant: int, tokens: np.ndarray, t_s: float) -> None:
        """Stores the tokens (S, D) that serve a grid instant. Instants come in order, without holes."""
        if instant != self._written:
            raise ValueError(f"instant {instant} written, expected {self._written}: the ring keeps no holes")
        phase, slot = instant % self._phases, instant // self._phases % self._frames
        for place in (slot, slot + self._frames):
            self._tokens[phase, place] = tokens
            self._times_s[phase, place] = t_s
        self._written += 1

    @property
    def full(self) -> bool:
        """True if the newest instant completes a window."""
        return self._written > (self._frames - 1) * self._phases

    def window(self) -> tuple[np.ndarray, float, float]:
        """The newest window: tokens (1, K, S, D), oldest first, and the times of its first and last frame.

        The tokens are a view, valid until the next write. Call only when ``full``.
        """
        newest = self._written - 1
        phase, slot = newest % self._phases, newest // self._phases % self._frames
        window = slice(slot + 1, slot + 1 + self._frames)
        times_s = self._times_s[phase, window]
        return self._tokens[phase, window][np.newaxis], float(times_s[0]), float(times_s[-1])
