"""Clocks that a test turns by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vlf_edge.runtime.clock import Clock

_GUARD_S = 10.0
_ENDED_S = 0.5  # a thread that does not look by then has ended


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
        self._looked = 0

    def __call__(self) -> float:
        return self._now_s

    def wait(self, event: threading.Event, timeout_s: float) -> None:
        with self._changed:
            self._waiting, until_s = event, self._now_s + timeout_s
            self._looked += 1
            self._changed.notify_all()
        if self._now_s < until_s:
            event.wait(_GUARD_S)
        with self._changed:
            self._waiting = None

    def advance(self, seconds: float) -> None:
        """Time goes on at once; returns when the thread that waits, if there still is one, has looked at it."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None, _ENDED_S)
            self._now_s += seconds
            if self._waiting is not None:
                looked = self._looked
                self._waiting.set()
                self._changed.wait_for(lambda: self._looked > looked, _ENDED_S)


def eventually(condition: Callable[[], bool], what: str = "") -> None:
    """Waits for other threads to get there; fails after ten seconds."""
    deadline_s = time.monotonic() + _GUARD_S
    while not condition():
        assert time.monotonic() < deadline_s, what or "it did not come about"
        time.sleep(0.002)
