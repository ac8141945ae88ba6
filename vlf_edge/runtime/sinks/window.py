"""Frames and decisions in a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import BackendMissing, VlfError
from ...opencv import load_cv2
from ...options import option
from ...printable import printable
from ...types import Frame, Prediction
from .annotation import annotate
from .sink import Run, Sink

_ESCAPE = 27


class WindowSink(Sink):
    """A window for each stream with its frames and the latest decision on them, until Q or Esc is pressed in one.

    Belongs on the main thread, as windows do. Raises VlfError where there is no screen, BackendMissing where OpenCV
    was built without windows.
    """

    every_frame = True
    name = "window"

    def __init__(self, title: str = "vlf_edge"):
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            # OpenCV ends the whole process where there is no screen; one line is better.
            raise VlfError("--show needs a screen and there is none here; use --save FILE instead")
        self._cv2, self._title = load_cv2(), title
        self._latest: dict[str, Prediction] = {}
        self._wants_more = True

    @property
    def wants_more(self) -> bool:
        return self._wants_more

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            self._latest[prediction.stream] = prediction
        try:
            if frame is not None:
                title = self._title if frame.stream == "main" else f"{self._title}: {printable(frame.stream)}"
                self._cv2.imshow(title, annotate(frame.image, self._latest.get(frame.stream)))
            key = self._cv2.waitKey(1) & 0xFF
        except self._cv2.error:
            raise BackendMissing(
                "this OpenCV was built without windows", remedy="pip install opencv-python, or use --save FILE"
            ) from None
        self._wants_more = self._wants_more and key not in (ord("q"), _ESCAPE)

    def close(self) -> None:
        try:
            self._cv2.destroyAllWindows()
        except self._cv2.error:
            pass


@dataclass(frozen=True)
class WindowOptions:
    """What the command line says of it."""

    show: bool = option(False, "show the video with the decisions on it in a window; Q or Esc ends the run")


def open_window(options: WindowOptions, run: Run) -> Iterator[Sink]:
    if options.show:
        yield WindowSink()
