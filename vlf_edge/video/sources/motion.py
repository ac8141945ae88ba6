"""Rendered motion, for trying things without a camera."""

from __future__ import annotations

from ...types import Frame
from ..motion_pattern import MotionPattern, parse_motion_url
from .options import SourceOptions
from .source import Address, Source


class MotionSource(Source):
    """test://motion: rendered motion, for trying things without a camera (class MotionPattern)."""

    def __init__(self, url: str):
        super().__init__(url)
        options = parse_motion_url(url)
        self._pattern = MotionPattern(options)
        self.fps = options.fps
        self._closed = False

    def read(self) -> Frame | None:
        if self._closed or self._seq == self._pattern.count:
            return None
        t_s = self._seq / self.fps
        return self._frame(self._pattern.render(t_s), t_s)

    def close(self) -> None:
        self._closed = True


def find_motion(text: str, options: SourceOptions) -> Address:
    return Address(text, False, lambda: MotionSource(text), again=True)
