"""A stream: one camera's, or one tracked person's, place in time. It owns no engine and no thread: kilobytes each."""

from __future__ import annotations

import logging
from typing import Any

from ..types import Sampling
from ..video.sampler import GridSlot, Sampler
from .ring import Ring
from .stats import Stats

log = logging.getLogger(__name__)
_SLOW_CAMERA_GAPS = 3
_KEPT_DURATIONS = 256


class DueFrame:
    """A frame that its stream's grid wants, ready for the executor.

    image: (height_px, width_px, 3) uint8 as the model takes it, or a GpuFrame. slot: the grid instants it serves.
    t_s: when it was taken. seq, captured_s: its number and its arrival (``time.monotonic()``). prepared_in_s: what it
    took to cut it to size. dropped: frames that were due before it and were lost.
    """

    __slots__ = ("stream", "image", "slot", "t_s", "seq", "captured_s", "prepared_in_s", "dropped")

    def __init__(
        self,
        stream: Stream,
        image: Any,
        slot: GridSlot,
        t_s: float,
        seq: int,
        captured_s: float,
        prepared_in_s: float = 0.0,
    ):
        self.stream, self.image, self.slot, self.t_s = stream, image, slot, t_s
        self.seq, self.captured_s, self.prepared_in_s = seq, captured_s, prepared_in_s
        self.dropped = 0


class Stream:
    """Which frames of one sequence are due (``sampler``), and which of them a window has (``ring``).

    name: as predictions carry it. stats: this stream's own counts. failures: decisions of the model that were no
    numbers since the last good one. last_used_s: ``time.monotonic()`` of its newest frame.
    """

    def __init__(self, name: str, sampling: Sampling):
        self.name, self.sampling = name, sampling
        self.sampler, self.ring = Sampler(sampling), Ring(sampling)
        self.stats = Stats(kept=_KEPT_DURATIONS)
        self.last_used_s = 0.0
        self.reset()

    def reset(self) -> None:
        """The next frame begins a new window and is number 0. Counts stay."""
        self.sampler.reset()
        self.ring.clear()
        self.next_seq = self._gaps_in_a_row = self.failures = 0

    def begin(self, slot: GridSlot) -> bool:
        """Makes the ring ready for a slot. Returns True if frames were missing before it, so that the window starts
        anew."""
        gap = slot.gap or not self.ring.continues(slot.first)
        if gap:
            self.ring.clear()
            self._note_gap()
        return gap

    def note_decision(self, label: str) -> None:
        """Counts a decision."""
        self._gaps_in_a_row = self.failures = 0
        self.stats.note_decision(label)

    def _note_gap(self) -> None:
        self.stats.add(gaps=1)
        self._gaps_in_a_row += 1
        if self._gaps_in_a_row == _SLOW_CAMERA_GAPS:
            log.warning(
                "%s: %d gaps without a full window between them: frames come too seldom for this plan, which needs one "
                "at least every %.3f s; use a faster camera, a faster machine or a plan with a longer span",
                self.name,
                _SLOW_CAMERA_GAPS,
                self.sampling.step_s / 2,
            )
