"""Capture: one source, opened and read on a thread of its own; a camera is watched, and opened again.

A thread that hangs in a read or an opening cannot be ended. It is abandoned: another takes its place, and what it gives
after that never enters.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..errors import CameraError, SourceError, VlfError
from ..types import Frame
from ..video.sources import Address, Source, find_source
from .clock import Clock
from .limits import Limits
from .stream import Stream
from .watchdog import Action, Watchdog

log = logging.getLogger(__name__)
_LOCK_S = 0.3
PUSHED = {
    "source": None, "live": False, "state": "pushed", "state_for_s": 0.0, "reconnects": 0, "last_error": None,
}  # fmt: skip
"""The report of a stream whose frames the caller pushes."""


@dataclass(frozen=True)
class Events:
    """What a capture calls, with itself first, on threads of its own.

    frame: takes a frame and returns whether more are wanted; it may wait where the source is no camera. no_signal: with
    the seconds since the newest frame. ended: with the error, if one ended it, and whether that ends the whole run.
    """

    frame: Callable[[Capture, Frame], bool]
    no_signal: Callable[[Capture, float], None]
    ended: Callable[[Capture, BaseException | None, bool], None]


class _Attempt:
    """One opening of a source and the thread that does it and reads."""

    def __init__(self, run: Callable[[_Attempt], None], source: Source | None, first_seq: int):
        self.source, self.first_seq = source, first_seq
        self.lost = {"overrun": 0, "undecoded": 0}
        self.thread = threading.Thread(target=run, args=(self,), name="vlf-capture", daemon=True)


class Capture:
    """Frames of a source, as a stream's.

    source: an Address is opened here, a Source is open. wake: set when ``tend`` has something to do.
    """

    def __init__(
        self,
        stream: Stream,
        source: Source | Address,
        limits: Limits,
        clock: Clock,
        events: Events,
        wake: threading.Event,
    ):
        address = find_source(source)
        self.stream, self.name, self.live = stream, address.name, address.live
        self._open, self._again = address.open, address.again
        self._given = source if isinstance(source, Source) else None
        self._events, self._clock, self._wake = events, clock, wake
        self._lock = threading.RLock()  # taken before the pipeline's condition, never after it
        self._attempt: _Attempt | None = None
        self._abandoned: list[threading.Thread] = []
        self._ending: list[threading.Thread] = []  # since it was closed
        self._done = False
        self._next_seq, self.last_t_s = 0, 0.0
        self._watchdog = None
        if self.live:
            self._watchdog = Watchdog(stream.name, limits, clock(), again=self._again)
        self._began_s, self._ended_s, self._error = clock(), None, None

    def start(self) -> None:
        """Begins to read; a camera when it is tended first."""
        with self._lock:
            if self._watchdog is None and not self._done:
                self._begin()

    def tend(self, now_s: float) -> float:
        """Does what the time demands; returns when to be called again, infinity for never."""
        if self._watchdog is None:
            return math.inf
        with self._lock:
            self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
            if not self._done:
                for action in self._watchdog.act(now_s, len(self._abandoned)):
                    self._do(action, now_s)
            news = self._watchdog.take_news()
            wakes_s = math.inf if self._done else self._watchdog.wakes_s(len(self._abandoned))
        for sentence in news:
            log.warning("%s", sentence)
        return wakes_s

    def close(self) -> list[threading.Thread]:
        """Ends it without waiting; returns the threads that are to end now, the one that reads first. Idempotent: a
        thread that infers may come here before the one that waits for the others."""
        # The garbage collector may come here in a thread that holds what the lock's owner waits for. So what goes on
        # behind the lock looks at _done again: an attempt that begins after this ends by itself.
        locked = self._lock.acquire(timeout=_LOCK_S)
        try:
            attempt, source = self._attempt, self._given
            self._attempt = self._given = None
            if attempt is not None:
                source = attempt.source or source
                self._ending.append(attempt.thread)
            if not self._done:
                self._done, self._ended_s = True, self._clock()
                if self._watchdog is not None:
                    self._watchdog.ended(self._ended_s)
        finally:
            if locked:
                self._lock.release()
        if source is not None:
            self._ending += _close_apart(source)
        return list(self._ending)

    def report(self) -> dict[str, Any]:
        """{"source", "live", "state", "state_for_s", "reconnects", "last_error"} as plain JSON values."""
        known = {"source": self.name, "live": self.live}
        if self._watchdog is not None:
            with self._lock:
                return known | self._watchdog.report(self._clock())
        since_s = self._began_s if self._ended_s is None else self._ended_s
        state = "live" if self._ended_s is None else "ended" if self._error is None else "failed"
        return known | {
            "state": state,
            "state_for_s": round(self._clock() - since_s, 3),
            "reconnects": 0,
            "last_error": None if self._error is None else str(self._error),
        }

    def _do(self, action: Action, now_s: float) -> None:
        if action is Action.OPEN:
            self._begin()
        elif action is Action.TELL:
            self._events.no_signal(self, now_s - self._watchdog.last_s)
        elif action is Action.GIVE_UP:
            self._finish(self._watchdog.error)
        else:
            attempt, self._attempt = self._attempt, None
            if attempt is None:  # closed meanwhile
                return
            self._abandoned.append(attempt.thread)
            if attempt.source is not None:
                self._abandoned += _close_apart(attempt.source)

    def _begin(self) -> None:
        attempt = _Attempt(self._run, self._given, self._next_seq)
        attempt.thread.start()
        self._attempt = attempt  # whose thread needs the lock before it asks for this, and can be joined from now on

    def _run(self, attempt: _Attempt) -> None:
        error: BaseException | None = None
        try:
            source = attempt.source or self._opened(attempt)
            if source is not None:
                try:
                    for frame in source:
                        if not self._take(attempt, frame):
                            break
                finally:
                    self._count_lost(attempt, source)
                    with suppress(Exception):  # the device is free before anybody opens it again
                        source.close()
                        self._given = None
        except BaseException as failure:
            error = failure
        try:
            self._ended(attempt, error)
        finally:
            del error  # its traceback holds this frame, and with it all that the attempt had
        self._wake.set()

    def _opened(self, attempt: _Attempt) -> Source | None:
        source = self._open()
        with self._lock:
            if attempt is self._attempt and not self._done:
                attempt.source = source
                if self._watchdog is not None:
                    self._watchdog.opened(self._clock())
                return source
        source.close()
        return None

    def _take(self, attempt: _Attempt, frame: Frame) -> bool:
        frame = replace(frame, stream=self.stream.name)
        if self._watchdog is None:  # it may wait in there, so without the lock
            self._count_lost(attempt, attempt.source)
            self.last_t_s = frame.t_s
            return self._hand_over(frame)
        with self._lock:
            if self._done:
                return False
            if attempt is not self._attempt:
                self.stream.stats.drop("late", waiting=False)
                return False
            self._count_lost(attempt, attempt.source)
            begins = self._watchdog.frame(self._clock()) or frame.begins
            frame = replace(frame, begins=begins, seq=attempt.first_seq + frame.seq)
            self._next_seq, self.last_t_s = frame.seq + 1, frame.t_s
            return self._hand_over(frame)

    def _count_lost(self, attempt: _Attempt, source: Source) -> None:
        """Frames that came and that the source did not give. For the attempt's own thread."""
        for cause in ("overrun", "undecoded"):
            now = getattr(source, cause)
            lost, attempt.lost[cause] = now - attempt.lost[cause], now
            if lost:
                self.stream.stats.add(captured=lost, dropped=lost, **{f"dropped_{cause}": lost})

    def _hand_over(self, frame: Frame) -> bool:
        try:
            return self._events.frame(self, frame)
        except BaseException as error:  # not the source's: it is not opened again for this
            with self._lock:
                self._finish(error)
            return False

    def _ended(self, attempt: _Attempt, error: BaseException | None) -> None:
        """The thread of an attempt has come to its end."""
        with self._lock:
            if self._done or attempt is not self._attempt:
                return
            now_s, self._attempt = self._clock(), None
            of_source = isinstance(error, SourceError) or not isinstance(error, VlfError)
            if self._watchdog is None or (error is None and not self._again):
                self._finish(error)
            elif not of_source or not isinstance(error, (Exception, type(None))):
                self._finish(error, fatal=attempt.source is None)
            else:
                # Without the traceback, which keeps what was read until the next error.
                failure = error or CameraError(f"{self.name} has ended")
                self._watchdog.failed(now_s, failure.with_traceback(None))

    def _finish(self, error: BaseException | None, *, fatal: bool = False) -> None:
        """No more frames come. fatal: what was asked for can never be, such as a library that is missing."""
        if self._done:
            return
        self._done, self._ended_s, self._error = True, self._clock(), error
        if self._watchdog is not None:
            self._watchdog.ended(self._ended_s, error)
        self._events.ended(self, error, fatal)


def _close_apart(source: Source) -> list[threading.Thread]:
    """Closes a source on a thread of its own, since that may hang too."""
    thread = threading.Thread(target=source.close, name="vlf-close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # Python is taking itself down and starts no more threads
        source.close()
        return []
    return [thread]
