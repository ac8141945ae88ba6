"""Sources around other sources: turned, played again, played at their own pace, thinned out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ...errors import SourceError
from ...opencv import load_cv2
from ...types import Frame
from .source import Source

_TURNS = {
    "rotate90": "ROTATE_90_CLOCKWISE",
    "rotate270": "ROTATE_90_COUNTERCLOCKWISE",
    "rotate180": "ROTATE_180",
}
_MIRRORS = {"horizontal": 1, "vertical": 0}
_ROUNDED_S = 1e-3  # time stamps come rounded


class Wrapper(Source):
    """A source that gives another's frames, changed."""

    def __init__(self, inner: Source):
        super().__init__(inner.name)
        self._inner, self.live, self.fps, self.paths = inner, inner.live, inner.fps, inner.paths

    @property
    def undecoded(self) -> int:
        return self._inner.undecoded

    @property
    def overrun(self) -> int:
        return self._inner.overrun

    def close(self) -> None:
        self._inner.close()


class Flipped(Wrapper):
    """Every frame mirrored or turned. how: one of FLIPS but "none"."""

    def __init__(self, inner: Source, how: str):
        super().__init__(inner)
        self._how = how

    def read(self) -> Frame | None:
        frame = self._inner.read()
        if frame is None:
            return None
        cv2 = load_cv2()
        if self._how in _MIRRORS:
            return replace(frame, image=cv2.flip(frame.image, _MIRRORS[self._how]))
        return replace(frame, image=cv2.rotate(frame.image, getattr(cv2, _TURNS[self._how])))


class Looped(Wrapper):
    """A source opened again at its end; the first frame of every round begins something new, on a clock that starts
    anew. rounds: how many; -1 for ever."""

    def __init__(self, open_again: Callable[[], Source], rounds: int):
        super().__init__(open_again())
        self._open_again, self._left = open_again, rounds - 1 if rounds > 0 else -1
        self._closed, self._first = False, True

    def read(self) -> Frame | None:
        while not self._closed:
            frame = self._inner.read()
            if frame is not None:
                begins, self._first = frame.begins or (self._first and self._seq > 0), False
                self._seq += 1
                return replace(frame, seq=self._seq - 1, begins=begins)
            if self._closed or self._left == 0:
                return None
            if self._first:
                raise SourceError(f"{self.name} holds no frames to play again")
            self._inner.close()
            self._inner, self._first, self._left = self._open_again(), True, max(-1, self._left - 1)
        self._inner.close()  # a close() that came while it was opened again met the one before
        return None

    def close(self) -> None:
        self._closed = True
        self._inner.close()


class Paced(Wrapper):
    """What is recorded, given as a camera does: each frame at its time. A clock that is set back, or a new beginning,
    starts the pace anew.

    clock: seconds. wait: waits so many seconds and returns at once after ``close``.
    """

    def __init__(
        self,
        inner: Source,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ):
        super().__init__(inner)
        self.live = True
        self._closed = threading.Event()
        self._clock, self._wait = clock, wait or self._closed.wait
        self._begun_s = self._last_s = 0.0

    def read(self) -> Frame | None:
        frame = self._inner.read()
        if frame is None:
            return None
        now_s = self._clock()
        if self._seq == 0 or frame.begins or frame.t_s < self._last_s:
            self._begun_s = now_s - frame.t_s
        self._seq, self._last_s = self._seq + 1, frame.t_s
        if frame.t_s + self._begun_s > now_s:
            self._wait(frame.t_s + self._begun_s - now_s)
        return None if self._closed.is_set() else replace(frame, captured_s=self._clock())

    def close(self) -> None:
        self._closed.set()
        super().close()


class Thinned(Wrapper):
    """No more than ``max_fps`` frames a second of the source's own time; the numbers of the others are missing."""

    def __init__(self, inner: Source, max_fps: float):
        super().__init__(inner)
        self.fps = min(self.fps, max_fps) if self.fps else max_fps
        self._period_s = 1.0 / max_fps
        self._due_s = self._last_s = float("-inf")

    def read(self) -> Frame | None:
        while (frame := self._inner.read()) is not None:
            anew = frame.begins or frame.t_s < self._last_s
            self._last_s = frame.t_s
            if not anew and frame.t_s < self._due_s - _ROUNDED_S:
                continue
            late = anew or frame.t_s >= self._due_s + self._period_s
            self._due_s = (frame.t_s if late else self._due_s) + self._period_s
            return frame
        return None
