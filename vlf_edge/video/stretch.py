"""A part of a clip."""

from __future__ import annotations

from ..types import Frame
from .sampler import TOLERANCE_S
from .sources import Source


class Stretch(Source):
    """The frames of another source, which it closes, from ``start_s`` up to ``end_s`` (None: the end) of its clock."""

    def __init__(self, source: Source, start_s: float, end_s: float | None):
        super().__init__(source.name)
        self.live, self.fps, self.paths = source.live, source.fps, source.paths
        self._source, self._start_s, self._end_s = source, start_s, end_s

    def read(self) -> Frame | None:
        while (frame := self._source.read()) is not None:
            if self._end_s is not None and frame.t_s >= self._end_s - TOLERANCE_S:
                return None
            if frame.t_s >= self._start_s - TOLERANCE_S:
                return frame
        return None

    def close(self) -> None:
        self._source.close()
