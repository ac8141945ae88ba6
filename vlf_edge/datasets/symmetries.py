"""One rendered clip seen in sixteen ways: turned by quarters, mirrored, played backwards, with the labels that follow.

Rendering costs as much as learning from what was rendered. A symmetry costs nothing, and clips of one scene that differ
in motion alone say best what the label is about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..synthetic import CLASSES, MIRRORS, REVERSES

_QUARTER = {"right": "down", "down": "left", "left": "up", "up": "right", "shake": "nod", "nod": "shake"}
_REVERSED = {**REVERSES, **{forward: backward for backward, forward in REVERSES.items()}}


@dataclass(frozen=True)
class Symmetry:
    """quarters: turns by 90 degrees, clockwise. mirrored: left and right swapped, first. backwards: in time."""

    quarters: int
    mirrored: bool
    backwards: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Symmetry:
        return cls(int(rng.integers(4)), bool(rng.random() < 0.5), bool(rng.random() < 0.5))

    def label(self, label: int) -> int:
        """What a clip of class ``label`` becomes a clip of."""
        name = CLASSES[label]
        if self.mirrored:
            name = MIRRORS.get(name, name)
        for _ in range(self.quarters):
            name = _QUARTER.get(name, name)
        if self.backwards:
            name = _REVERSED.get(name, name)
        return CLASSES.index(name)

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """(K, H, W, 3) -> the same, contiguous; H = W if ``quarters`` is odd."""
        if self.mirrored:
            frames = frames[:, :, ::-1]
        frames = np.rot90(frames, -self.quarters, axes=(1, 2))
        return np.ascontiguousarray(frames[::-1] if self.backwards else frames)

    def shifts(self, shifts: np.ndarray) -> np.ndarray:
        """(K-1, 5): x, y, log scale, angle, aperture, from frame to frame -> the same."""
        x, y, log_scale, angle, aperture = shifts.T
        if self.mirrored:
            x, angle = -x, -angle
        for _ in range(self.quarters):
            x, y = -y, x
        turned = np.stack([x, y, log_scale, angle, aperture], axis=1)
        return -turned[::-1] if self.backwards else turned
