"""V4L2 cameras: webcams, USB cameras, what is at /dev/video*."""

from __future__ import annotations

import glob
import time
from pathlib import Path

from ...errors import CameraError
from ...opencv import load_cv2
from ...types import Frame
from .capture import CaptureSource


class CameraSource(CaptureSource):
    """A V4L2 camera by number or path. Frames are stamped when they arrive."""

    live = True

    def __init__(self, device: int | str):
        cv2 = load_cv2()
        name = f"/dev/video{device}" if isinstance(device, int) else device
        if not Path(name).exists():
            present = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise CameraError(f"no camera at {name}; cameras here: {present}; without one try: test://motion")
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError(f"{name} is there but does not open: busy, not a camera, or no right to it (group video)")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        super().__init__(name, capture)
        self.fps = capture.get(cv2.CAP_PROP_FPS)

    def read(self) -> Frame | None:
        grabbed = self._grab()
        if grabbed is None and not self._closed:
            raise CameraError(f"{self.name} gives no more frames: unplugged, or taken over by another program")
        return None if grabbed is None else self._frame(grabbed[0], time.monotonic())
