"""Image files as the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...types import Frame
from ..images import read_image
from .source import DEFAULT_FPS, Source

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


class ImageFilesSource(Source):
    """Image files as the frames of a video, ``fps`` a second, in the order given."""

    def __init__(self, name: str, paths: Sequence[Path], fps: float | None = None):
        super().__init__(name)
        self.paths = tuple(paths)
        self.fps = fps or DEFAULT_FPS

    def read(self) -> Frame | None:
        if self._seq == len(self.paths):
            return None
        return self._frame(read_image(self.paths[self._seq]), self._seq / self.fps)
