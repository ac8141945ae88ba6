"""The clock that a run's time limits go by: the system's, or one that a test turns by hand."""

from __future__ import annotations

import threading
import time


class Clock:
    """Seconds that never run backwards, and waiting by them; without the waiting, any callable that gives seconds is
    a clock."""

    def __call__(self) -> float:
        """As ``time.monotonic()``."""
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> None:
        """Returns when the event is set, or after so many seconds."""
        event.wait(timeout_s)
