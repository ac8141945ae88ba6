"""What is read through OpenCV's VideoCapture."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ...errors import SourceError
from ...opencv import load_cv2
from .source import Source


class CaptureSource(Source):
    """What a camera and a video file share: a cv2.VideoCapture that is never released under a running read."""

    def __init__(self, name: str, capture: Any):
        super().__init__(name)
        self._capture, self._position_ms = capture, load_cv2().CAP_PROP_POS_MSEC
        self._reading = threading.Lock()
        self._closed = False

    def _grab(self) -> tuple[np.ndarray, float] | None:
        """The next image and its position in the stream, ms; None at the end or once closed."""
        with self._reading:
            try:
                ok, image = (False, None) if self._closed else self._capture.read()
            except load_cv2().error as error:  # such as frames too large for the memory
                raise SourceError(f"{self.name}: OpenCV cannot decode frame {self._seq}: {error}") from None
            grabbed = (image, self._capture.get(self._position_ms)) if ok and not self._closed else None
        if self._closed:
            # The close() that came while this read held the device left its release to us.
            self.close()
            return None
        return grabbed

    def close(self) -> None:
        self._closed = True
        # A read that is under way releases the device itself when it returns.
        if self._reading.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._reading.release()
