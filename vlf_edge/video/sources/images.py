"""Images that the caller has already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...types import Frame
from ..preprocess import check_image
from .source import DEFAULT_FPS, Source


class IterableSource(Source):
    """Any iterable of images (H, W, 3) uint8 BGR, or of (image, t_s) pairs; without times, ``fps`` a second.

    Every image must be an array of its own: several wait at a time, and one that is written to again shows the wrong
    moment.
    """

    def __init__(self, images: Iterable[Any], fps: float | None = None):
        super().__init__(type(images).__name__)
        self._images = iter(images)
        self.fps = fps or DEFAULT_FPS
        self._closed = False

    def read(self) -> Frame | None:
        if self._closed:
            return None
        for item in self._images:
            image, t_s = item if isinstance(item, tuple) else (item, self._seq / self.fps)
            check_image(image)
            return self._frame(image, float(t_s))
        return None

    def close(self) -> None:
        self._closed = True
