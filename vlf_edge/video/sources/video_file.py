"""Video files, one or several after another."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import SourceError
from ...opencv import load_cv2
from ...types import Frame
from ..cut_off import is_cut_off, note_missing_frames
from .capture import CaptureSource
from .source import DEFAULT_FPS, Source

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mjpeg")


_JUMP_S = 1.0


class VideoFileSource(CaptureSource):
    """A video file: every frame, at the time the container gives it.

    Where the clock in it goes back by more than a second, as in recordings that were put one behind another, something
    new begins.

    missing: how many frames a file that is cut off lacks, known at its end, 0 before; a warning says so.
    """

    missing = 0

    def __init__(self, path: str | Path):
        cv2 = load_cv2()
        if not Path(path).is_file():
            raise SourceError(f"no file at {path}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"no right to read {path}")
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            why = ": it is cut off; copy or record it again" if is_cut_off(Path(path)) else ""
            raise SourceError(f"{path} is not a video that OpenCV {cv2.__version__} can decode{why}")
        super().__init__(str(path), capture)
        self.paths = (Path(path),)
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1e4 else DEFAULT_FPS  # broken headers claim anything, NaN too
        self._last_s = -1.0 / self.fps
        self._ahead: list[tuple[np.ndarray, float] | None] = []  # read already, to see what follows
        self._announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def read(self) -> Frame | None:
        grabbed = self._ahead.pop(0) if self._ahead else self._grab()
        if grabbed is None or self._closed:
            if self._seq == 0 and not self._closed:
                raise SourceError(f"{self.name} opens but holds no frame that can be decoded")
            if not self._closed and not self.missing:
                self.missing = note_missing_frames(self.paths[0], self._announced, self.fps, self._seq, self._last_s)
            return None
        image, position_ms = grabbed
        begins = self._jumps(position_ms / 1e3)
        # Some containers carry no time stamps; the frame rate is then all there is.
        stamped = begins or self._last_s < position_ms / 1e3 < math.inf
        self._last_s = position_ms / 1e3 if stamped else self._last_s + 1.0 / self.fps
        return self._frame(image, self._last_s, begins=begins)

    def _jumps(self, position_s: float) -> bool:
        """Whether the clock was set back before the frame in hand."""
        if position_s < 0 or not position_s < self._last_s - _JUMP_S:
            return False
        if position_s > 0:
            return True
        # 0 is also what OpenCV says of frames without a stamp, such as the last ones of many files.
        if not self._ahead:
            self._ahead.append(self._grab())
        following = self._ahead[0]
        return following is not None and 0 < following[1] / 1e3 < self._last_s - _JUMP_S


class PlaylistSource(Source):
    """Video files one after another, each on its own clock. The first frame of each says that it begins something new,
    so that no window ever straddles two files."""

    def __init__(self, name: str, paths: Sequence[Path]):
        super().__init__(name)
        self.paths = tuple(paths)
        self._waiting = list(paths)
        self._current: VideoFileSource | None = None
        self._closed = False
        with VideoFileSource(self._waiting[0]) as first:
            self.fps = first.fps

    def read(self) -> Frame | None:
        while not self._closed:
            if self._current is None:
                if not self._waiting:
                    return None
                self._current = VideoFileSource(self._waiting.pop(0))
            frame = self._current.read()
            if frame is not None:
                return self._frame(frame.image, frame.t_s, begins=frame.begins or (frame.seq == 0 and self._seq > 0))
            self._current.close()
            self._current = None
        return None

    def close(self) -> None:
        self._closed = True
        if (current := self._current) is not None:
            current.close()
