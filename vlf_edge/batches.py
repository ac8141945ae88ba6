"""Running a function over many items, a few at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def in_batches(run: Callable[[np.ndarray], np.ndarray], items: np.ndarray, size: int) -> np.ndarray:
    """What ``run`` makes of items (n, ...), n >= 1: called with at most ``size`` at a time, its results (n, ...) joined
    in order."""
    parts = [run(items[start : start + size]) for start in range(0, len(items), size)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
