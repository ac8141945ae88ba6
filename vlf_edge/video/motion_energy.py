"""How much moves in a clip: by how much pixels change from one picture to the next."""

from __future__ import annotations

import numpy as np

_MOVING_SHARE = 99  # of the pixels: that many per cent of them may be as still as they like
# Noise of a camera and of its compression stays below this; a hand that moves does not.
STILL = 6.0
_WORDS = ((STILL, "nothing"), (20.0, "little"), (60.0, "some"))


def moved_between(before: np.ndarray, after: np.ndarray) -> float:
    """By how much of 255 the one per cent of the values that changes most does, at least. Both of one shape, uint8."""
    return float(np.percentile(np.abs(before.astype(np.int16) - after), _MOVING_SHARE))


def how_much(moved: float) -> str:
    """That as a word: what moved is "nothing", "little", "some" or "much"."""
    return next((word for most, word in _WORDS if moved < most), "much")
