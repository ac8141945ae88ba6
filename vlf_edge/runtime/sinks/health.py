"""Whether a sink delivers, since when, and what it has lost: counted always, said in the log when it changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ...errors import one_line

log = logging.getLogger(__name__)


class Health:
    """How one sink is. Any thread may tell it and ask it.

    name: what messages call the sink, without secrets. unit: what it counts. Every item is counted once: written,
    dropped (there was no room for it) or failed (it was tried and given up). errors: attempts that failed.
    """

    def __init__(self, name: str, unit: str = "steps", clock: Callable[[], float] = time.monotonic):
        self.name, self.unit, self._clock = name, unit, clock
        self._lock = threading.Lock()
        self.written = self.dropped = self.failed = self.errors = 0
        self._last_error: str | None = None
        self._failing, self._since_s = False, clock()

    @property
    def ok(self) -> bool:
        return not self._failing

    def wrote(self, count: int = 1) -> None:
        """Items were delivered (0: it could deliver again, were there any)."""
        with self._lock:
            self.written += count
            lasted_s = self._change(failing=False)
        if lasted_s is not None:
            log.warning("%s works again, after %.0f s", self.name, lasted_s)

    def fails(self, error: BaseException | str) -> None:
        """An attempt failed, and will be made again."""
        what = error if isinstance(error, str) else one_line(error) or type(error).__name__
        with self._lock:
            self.errors += 1
            self._last_error = what
            began = self._change(failing=True) is not None
        if began:
            log.warning("%s fails, and is tried again while all else goes on: %s", self.name, what)

    def drops(self, count: int = 1) -> None:
        """Items were discarded untried."""
        with self._lock:
            self.dropped += count

    def gives_up(self, count: int = 1) -> None:
        """Items were tried and are given up."""
        with self._lock:
            self.failed += count

    def losses(self) -> str:
        """One sentence about what was lost, or ""."""
        parts = [f"{self.dropped} were dropped"] * bool(self.dropped) + [f"{self.failed} failed"] * bool(self.failed)
        why = f"; the last error was: {self._last_error}" if self._last_error else ""
        return f"{self.name} lacks {self.unit}: {' and '.join(parts)}{why}" if parts else ""

    def stats(self) -> dict[str, Any]:
        """{"name", "state" ("ok" or "failing"), "since_s" (how long it has been so), "unit", "written", "dropped",
        "failed", "errors", "last_error"} as plain JSON values."""
        with self._lock:
            return {
                "name": self.name,
                "state": "failing" if self._failing else "ok",
                "since_s": round(self._clock() - self._since_s, 3),
                "unit": self.unit,
                "written": self.written,
                "dropped": self.dropped,
                "failed": self.failed,
                "errors": self.errors,
                "last_error": self._last_error,
            }

    def _change(self, failing: bool) -> float | None:
        """How long the state lasted that has now changed; None if it has not."""
        if failing == self._failing:
            return None
        now_s = self._clock()
        lasted_s, self._since_s, self._failing = now_s - self._since_s, now_s, failing
        return lasted_s
