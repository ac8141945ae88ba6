"""Which frames of a stream the model sees, decided by time stamps alone.

Counting frames would give a 15 fps camera a window twice as long as a 30 fps one, and every dropped frame would bend
it. Here the instants lie on one fixed grid, ``origin + n * grid_s``; instant n is served by the first frame at or after
it. A frame may serve several instants when phases interleave faster than the camera delivers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..types import Sampling

# Time stamps come rounded (containers keep milliseconds); a frame this early still belongs to its instant.
TOLERANCE_S = 1e-3


@dataclass(frozen=True)
class GridSlot:
    """A frame that the model should see: it serves the instants ``first`` to ``last`` of the grid, inclusive.

    due_s: when instant ``first`` is, on the stream's clock.
    gap: frames were missing, or time ran backwards: nothing older may share a window with this frame, and the grid
    begins anew with it (``first`` is 0).
    """

    first: int
    last: int
    due_s: float
    gap: bool = False


class Sampler:
    """Maps the time stamps of a stream to grid instants.

    A frame that comes more than half a step after its instant is too late to stand for it: the distance to the
    instant before would exceed 1.5 steps. That is a gap. So is a step back in time of more than half a step; a smaller
    one is a stamp that jitters, and that frame is passed over.
    """

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self.reset()

    def reset(self) -> None:
        """Forgets the grid; the next frame begins a new one."""
        self._origin_s: float | None = None
        self._last_s = -math.inf
        self._next = 0

    def accept(self, t_s: float, *, begins: bool = False) -> GridSlot | None:
        """What the frame taken at ``t_s`` (seconds, any fixed origin) is for; None: nothing, do not even resize it.

        begins: nothing before this frame belongs with it, whatever the stamps say.
        """
        if self._origin_s is None:
            return self._start(t_s, gap=False)
        if begins or t_s < self._last_s - self._patience_s:
            return self._start(t_s, gap=True)
        if t_s <= self._last_s:
            return None
        self._last_s = t_s
        due_s = self._origin_s + self._next * self.sampling.grid_s
        if t_s < due_s - TOLERANCE_S:
            return None
        if self._too_late(t_s, due_s):
            return self._start(t_s, gap=True)
        first = self._next
        newest = math.floor((t_s - self._origin_s + TOLERANCE_S) / self.sampling.grid_s)
        self._next = max(first, newest) + 1
        return GridSlot(first, self._next - 1, due_s)

    def stand_in(self, lost: GridSlot, slot: GridSlot, t_s: float) -> GridSlot:
        """The slot of the frame taken at ``t_s``, the next after a frame that was lost: with the lost frame's instants
        too if it can stand for them, else its own, before which the lost ones are then a hole."""
        gap = slot.gap or lost.gap  # what the lost frame did not belong with, this one does not either
        if slot.gap or slot.first != lost.last + 1 or self._too_late(t_s, lost.due_s):
            return replace(slot, gap=gap)
        return replace(slot, first=lost.first, due_s=lost.due_s, gap=gap)

    @property
    def _patience_s(self) -> float:
        return 0.5 * self.sampling.step_s

    def _too_late(self, t_s: float, due_s: float) -> bool:
        return t_s - due_s > self._patience_s + TOLERANCE_S

    def _start(self, t_s: float, gap: bool) -> GridSlot:
        self._origin_s = self._last_s = t_s
        self._next = 1
        return GridSlot(0, 0, t_s, gap)


def segment_centres(count: int, frames: int) -> list[int]:
    """Indices that split ``count`` frames into ``frames`` equal segments and take the middle of each (TSN's test-time
    sampling). Fewer frames than segments: some are taken twice; as many: each once, in order."""
    return [int((i + 0.5) * count / frames) for i in range(frames)]
