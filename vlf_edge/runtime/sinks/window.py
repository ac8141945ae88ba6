"""Frames and decisions in a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from ...errors import BackendMissing, VlfError
from ...opencv import load_cv2
from ...options import option
from ...printable import printable
from ...types import MAIN, Frame, Prediction
from .annotation import annotate
from .sink import Run, Sink

ESCAPE = "\x1b"


class Window:
    """Pictures on a screen, and keys. Belongs on the main thread, as windows do.

    otherwise: what to do where there is no screen. Raises VlfError there, BackendMissing where OpenCV was built without
    windows.
    """

    def __init__(self, otherwise: str):
        self._otherwise = otherwise
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            # OpenCV ends the whole process where there is no screen; one line is better.
            raise VlfError(f"--show needs a screen and there is none here; {otherwise}")
        self._cv2 = load_cv2()

    def show(self, title: str, image: np.ndarray) -> None:
        """Shows an image (H, W, 3) uint8 BGR in the window of that title."""
        with self._explained():
            self._cv2.imshow(title, image)

    def key(self) -> str:
        """The key that was pressed in any of them; "" if none was."""
        with self._explained():
            code = self._cv2.waitKey(1)
        return "" if code < 0 else chr(code & 0xFF)

    def close(self) -> None:
        """Takes them away; idempotent."""
        with suppress(self._cv2.error):
            self._cv2.destroyAllWindows()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._cv2.error:
            raise BackendMissing(
                "this OpenCV was built without windows", remedy=f"pip install opencv-python, or {self._otherwise}"
            ) from None


class WindowSink(Sink):
    """A window for each stream with its frames and the latest decision on them, until Q or Esc is pressed in one.
    Raises what ``Window`` raises."""

    every_frame = True
    name = "window"

    def __init__(self, title: str = "vlf_edge"):
        self._window, self._title = Window("use --save FILE instead"), title
        self._latest: dict[str, Prediction] = {}
        self._wants_more = True

    @property
    def wants_more(self) -> bool:
        return self._wants_more

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            self._latest[prediction.stream] = prediction
        if frame is not None:
            title = self._title if frame.stream == MAIN else f"{self._title}: {printable(frame.stream)}"
            self._window.show(title, annotate(frame.image, self._latest.get(frame.stream)))
        self._wants_more = self._window.key() not in ("q", ESCAPE) and self._wants_more

    def close(self) -> None:
        self._window.close()


@dataclass(frozen=True)
class WindowOptions:
    """What the command line says of it."""

    show: bool = option(False, "show the video with the decisions on it in a window; Q or Esc ends the run")


def open_window(options: WindowOptions, run: Run) -> Iterator[Sink]:
    if options.show:
        yield WindowSink()
