"""Steps on their way to the caller. No threads here."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from ..types import Frame, Prediction
from .stream import Stream

_STEPS_PER_CAMERA = 8
_STEPS = 64


class Step(NamedTuple):
    """A frame that reached the recogniser, and the prediction it led to, if any; no frame where there is no signal, and
    at the end of a stream."""

    frame: Frame | None
    prediction: Prediction | None

    @property
    def stream(self) -> str:
        """Name of the stream it is of."""
        return self.prediction.stream if self.frame is None else self.frame.stream

    @property
    def is_end(self) -> bool:
        """Whether it is the last word on a stream."""
        return self.prediction is not None and self.prediction.state == "ended"


class Outbox:
    """The steps that the caller has not taken yet. Of a camera the newest count; a file's wait.

    every_frame: steps without a prediction come too, so that more of a camera's are kept.
    """

    def __init__(self, every_frame: bool):
        self._per_camera = _STEPS_PER_CAMERA if every_frame else 1
        self._steps: deque[Step] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def full(self) -> bool:
        """Whether a file has to wait."""
        return len(self._steps) >= _STEPS

    def put(self, step: Step, stream: Stream, *, live: bool) -> None:
        """Adds a step; a camera's older ones that it replaces are counted as undelivered."""
        if live:
            step = self._instead_of_older(step, stream)
        self._steps.append(step)

    def take(self) -> Step:
        """The oldest step."""
        return self._steps.popleft()

    def clear(self) -> None:
        """Forgets all of them."""
        self._steps.clear()

    def _instead_of_older(self, step: Step, stream: Stream) -> Step:
        waiting = [other for other in self._steps if other.stream == stream.name and not other.is_end]
        for lost in waiting[: max(0, len(waiting) + 1 - self._per_camera)]:
            self._steps = deque(other for other in self._steps if other is not lost)
            stream.stats.add(undelivered=1)
            if lost.prediction is not None and lost.prediction.dropped and step.prediction is not None:
                dropped = lost.prediction.dropped + step.prediction.dropped
                step = step._replace(prediction=replace(step.prediction, dropped=dropped))
        return step
