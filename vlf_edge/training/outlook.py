"""How long a run will take, said as soon as it can be known."""

from __future__ import annotations

import math
import time

# The first steps wait for clips and for memory: they say nothing of the others.
_UNTIMED_STEPS, _TIMED_STEPS = 2, 6


class Outlook:
    """steps: to be taken. limit_s: after which the run is stopped, infinite for none."""

    def __init__(self, steps: int, limit_s: float = math.inf):
        self._steps, self._limit_s = steps, limit_s
        self._done, self._begin_s, self._timed_s = 0, time.monotonic(), 0.0

    def after_step(self) -> str | None:
        """To be called after every step; once, after a few of them, what to tell the user."""
        self._done += 1
        if self._done == _UNTIMED_STEPS:
            self._timed_s = time.monotonic()
        if self._done != _UNTIMED_STEPS + _TIMED_STEPS or self._done >= self._steps:
            return None
        now_s = time.monotonic()
        left_s = (now_s - self._timed_s) / _TIMED_STEPS * (self._steps - self._done)
        left_s = min(left_s, self._limit_s - (now_s - self._begin_s))
        return f"{self._steps} steps will take {in_words(now_s - self._begin_s + left_s)} at most, validation aside"


def in_words(seconds: float) -> str:
    """A time that is only roughly known: "20 seconds", "3 minutes", "1.5 hours"."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} seconds"
    minutes = max(1, round(seconds / 60))
    if minutes < 100:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds / 3600:.1f} hours"
