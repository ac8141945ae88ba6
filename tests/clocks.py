"""Clocks that a test turns by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vlf_edge.runtime.clock import Clock

_GUARD_S = 60.0  # nobody waits so long, on a busy machine either, for what does come about


class SetClock:
    """Gives what ``now_s`` is set to."""

    def __init__(self, now_s: float = 1000.0):
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class MockClock(Clock):
    """Stands still until ``advance``; the thread that waits is woken then, and looks at the time again."""

    def __init__(self, now_s: float = 1000.0):
        self._now_s, self._changed = now_s, threading.Condition()
        self._waiting: threading.Event | None = None
        self._watcher: threading.Thread | None = None
        self._looked = 0

    def __call__(self) -> float:
        return self._now_s

    def wait(self, event: threading.Event, timeout_s: float) -> None:
        with self._changed:
            self._waiting, until_s = event, self._now_s + timeout_s
            self._watcher = threading.current_thread()
            self._looked += 1
            self._changed.notify_all()
        if self._now_s < until_s:
            event.wait(_GUARD_S)
        with self._changed:
            self._waiting = None

    def advance(self, seconds: float) -> None:
        """Time goes on at once; returns when the thread that waits, if there still is one, has looked at it."""
        with self._changed:
            self._until(lambda: self._waiting is not None)
            self._now_s += seconds
            if self._waiting is not None:
                looked = self._looked
                self._waiting.set()
                self._until(lambda: self._looked > looked)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _GUARD_S
        while not condition() and (self._watcher is None or self._watcher.is_alive()):
            assert time.monotonic() < deadline_s, "nobody looks at this clock"
            self._changed.wait(0.05)


def eventually(condition: Callable[[], bool], what: str = "") -> None:
    """Waits for other threads to get there; fails after a minute."""
    deadline_s = time.monotonic() + _GUARD_S
    while not condition():
        assert time.monotonic() < deadline_s, what or "it did not come about"
        time.sleep(0.002)
