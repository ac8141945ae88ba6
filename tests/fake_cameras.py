"""Cameras that do what a test tells them: give frames, fail, end, hang in a read, hang when they are opened."""

from __future__ import annotations

import threading
import time
from copy import copy
from dataclasses import replace

import numpy as np

from vlf_edge.errors import CameraError
from vlf_edge.video.sources import Address, Source

_GUARD_S = 60.0


class FakeCamera:
    """A device: ``address`` is where to find it, each opening of it another Source.

    give(n): the next n frames, 0.25 s apart, may be read; each shows the number of its opening in its brightness.
    """

    def __init__(self, name: str = "fake", *, fps: float = 4.0):
        self.name, self.step_s = name, 1 / fps
        self.changed = threading.Condition()
        self.opened: list[FakeSource] = []
        self.absent: Exception | None = None
        self.hangs_when_opened = False
        self.released = threading.Event()

    @property
    def address(self) -> Address:
        return Address(self.name, True, self._open, again=True)

    @property
    def source(self) -> FakeSource:
        """The newest opening."""
        return self.opened[-1]

    def _open(self) -> Source:
        if self.hangs_when_opened:
            assert self.released.wait(_GUARD_S)
        if self.absent is not None:
            raise self.absent
        with self.changed:
            self.opened.append(FakeSource(self, len(self.opened) + 1))
            self.changed.notify_all()
        return self.opened[-1]


class FakeSource(Source):
    """One opening of a FakeCamera. clock: if given, when its frames say they were captured."""

    live = True

    def __init__(self, camera: FakeCamera | None = None, number: int = 1):
        camera = camera or FakeCamera()
        super().__init__(camera.name)
        self.number, self._camera = number, camera
        self._changed = camera.changed
        self._left, self._error, self._ends = 0, None, False
        self.deaf = self.closed = False
        self.captured_s: float | None = None

    def give(self, frames: int) -> None:
        with self._changed:
            self._left += frames
            self._changed.notify_all()

    def fail(self, error: Exception | None = None) -> None:
        with self._changed:
            self._error = error or CameraError(f"{self.name} was unplugged")
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ends = True
            self._changed.notify_all()

    def read(self):
        deadline_s = time.monotonic() + _GUARD_S
        with self._changed:
            while True:
                if self._left and (self.deaf or not self.closed):
                    break
                if self._error is not None:
                    raise copy(self._error)
                if self._ends or (self.closed and not self.deaf):
                    return None
                assert time.monotonic() < deadline_s, "nobody wants anything of this camera"
                self._changed.wait(0.5)
            self._left -= 1
        frame = self._frame(np.full((48, 64, 3), self.number, np.uint8), self._seq * self._camera.step_s)
        return frame if self.captured_s is None else replace(frame, captured_s=self.captured_s)

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
