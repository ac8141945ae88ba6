"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from ``first_s`` to ``cap_s``, each shortened at random by up to the share ``jitter``, so that
    many who lost the same thing do not all come back at once."""

    first_s: float = 0.5
    cap_s: float = 30.0
    jitter: float = 0.5

    def delay_s(self, failures: int, chance: Callable[[], float] = random.random) -> float:
        """The pause after so many failures in a row, 1 or more. chance: gives a number from 0 to below 1."""
        whole_s = min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return whole_s * (1 - self.jitter * chance())
