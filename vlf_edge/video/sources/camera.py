"""V4L2 cameras: webcams, USB cameras, what is at /dev/video*."""

from __future__ import annotations

import glob
import logging
import time
from pathlib import Path
from typing import Any

from ...errors import CameraError, SourceError
from ...opencv import load_cv2
from ...printable import printable
from ...types import Frame
from .capture import CaptureSource
from .options import SourceOptions
from .source import Address

log = logging.getLogger(__name__)

_ROUNDED_HZ = 0.5  # 30 and 29.97 are one to users


class CameraSource(CaptureSource):
    """A V4L2 camera by number or path. Frames are stamped when they arrive.

    options: width, height, frame rate and format are asked for; what the camera gives instead is logged.
    """

    live = True

    def __init__(self, device: int | str, options: SourceOptions | None = None):
        cv2 = load_cv2()
        name = f"/dev/video{device}" if isinstance(device, int) else device
        if not Path(name).exists():
            present = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise CameraError(f"no camera at {name}; cameras here: {present}; without one try: test://motion")
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError(f"{name} is there but does not open: busy, not a camera, or no right to it (group video)")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        ask(name, capture, options or SourceOptions())
        super().__init__(name, capture)
        self.fps = capture.get(cv2.CAP_PROP_FPS)

    def read(self) -> Frame | None:
        grabbed = self._grab()
        if grabbed is None and not self._closed:
            raise CameraError(f"{self.name} gives no more frames: unplugged, or taken over by another program")
        return None if grabbed is None else self._frame(grabbed[0], time.monotonic())


def ask(name: str, capture: Any, options: SourceOptions) -> None:
    """Asks a camera for what the user wants. Drivers take the nearest they have and say nothing: that is logged.

    Raises SourceError for a format that is no FOURCC.
    """
    cv2 = load_cv2()
    if options.format is not None:  # first: it limits the sizes, and these the rates
        if len(options.format) != 4 or not options.format.isascii():
            raise SourceError(f"format is {options.format!r}; expected four letters, such as MJPG or YUYV")
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*options.format))
    numbers = {
        "width": (cv2.CAP_PROP_FRAME_WIDTH, options.width_px, 0),
        "height": (cv2.CAP_PROP_FRAME_HEIGHT, options.height_px, 0),
        "fps": (cv2.CAP_PROP_FPS, options.fps, _ROUNDED_HZ),
    }
    for key, wanted, _ in numbers.values():
        if wanted is not None:
            capture.set(key, wanted)
    asked = {what: f"{wanted:g}" for what, (_, wanted, _) in numbers.items() if wanted is not None}
    given = {what: capture.get(key) for what, (key, _, _) in numbers.items()}
    other = {what: f"{given[what]:g}" for what in asked if abs(given[what] - numbers[what][1]) > numbers[what][2]}
    if options.format is not None:
        code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        if code != options.format.encode():
            asked["format"], other["format"] = options.format, code.decode("latin-1")
    if other:
        log.warning(
            "%s does not do what it was asked: %s", name,
            ", ".join(f"{what} {asked[what]}, gives {printable(value)}" for what, value in other.items()),
        )  # fmt: skip


def find_camera(text: str, options: SourceOptions) -> Address:
    """A number, /dev/videoN, or v4l2:// and either of them."""
    name = text.removeprefix("v4l2://")
    device = int(name) if name.isascii() and name.isdigit() else name
    path = f"/dev/video{device}" if isinstance(device, int) else name
    return Address(path, True, lambda: CameraSource(device, options), again=True)
