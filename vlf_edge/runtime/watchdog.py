"""When a camera has no signal, and when to open it again: a state machine without threads and without a clock.

What happens is told to it (``frame``, ``failed``), with the time; what to do is asked of it (``act``).

After a failure the next try comes a twentieth of the outage later, between 0.25 and 10 s: the waits grow
exponentially, and a camera that comes back is tried again before it was away for a twentieth longer, or 10 s. That
keeps what follows a short outage short. The wait is shortened by up to a quarter at random, so that cameras that went
together are not all opened together. One that refuses the password is tried every 10 s, since some lock out whoever
tries often.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum
from typing import Any

from ..errors import AccessDenied, CameraError
from .limits import Limits

MOST_HANGING = 4
"""Threads of one camera that may hang in a read or an opening before no new one is begun."""
OPEN_TIMEOUT_S = 30.0
"""Sources have shorter limits of their own for opening, most of them."""
TELL_S = 1.0
_SHARE, _LEAST_S, _MOST_S = 0.05, 0.25, 10.0
_STEADY_S = 1.0  # frames for so long end an outage; a camera that gives one and fails again is not back


class Action(Enum):
    """What the watchdog wants done.

    OPEN: the camera, on a thread of its own. ABANDON: the thread that opens or reads; what it gives from here on is
    not wanted. TELL: that there is no signal. GIVE_UP: end the stream with ``error``.
    """

    OPEN = "open"
    ABANDON = "abandon"
    TELL = "tell"
    GIVE_UP = "give up"


class Watchdog:
    """Watches one live source.

    name: of the stream, for messages. now_s: when it begins, on the clock of all other times. again: whether the source
    can be opened a second time; one that cannot is told about when it stalls, and is given up when it fails.

    state: "opening", "live", "no_signal", "failed" (given up) or "ended"; since_s: since when. reconnects: how often
    frames came back. error: what went wrong last. last_s: when the newest frame came, or the beginning.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        now_s: float,
        *,
        again: bool = True,
        jitter: Callable[[], float] = random.random,
    ):
        self._name, self._limits, self._again, self._jitter = name, limits, again, jitter
        self.state, self.since_s, self.last_s = "opening", now_s, now_s
        self.reconnects = 0
        self.error: BaseException | None = None
        self._seen = self._given_up = False
        self._retries = 0
        self._outage_s: float | None = None  # since when it has not worked steadily
        self._frames_from_s = now_s  # since when frames have come without a failure
        self._tell_s = now_s + limits.stall_timeout_s
        self._open_s = now_s
        self._waiting_s = now_s  # since when the thread that opens or reads has given nothing
        self._deadline_s = math.inf  # until when it must
        self._news: list[str] = []

    def opened(self, now_s: float) -> None:
        """It is open; the first frame is to come."""
        self._waiting_s = now_s
        self._deadline_s = now_s + self._limits.stall_timeout_s

    def frame(self, now_s: float) -> bool:
        """A frame has come. Returns True if nothing before it belongs with it, since the camera was away."""
        begins = self.state != "live"
        if begins:
            self.reconnects += self._seen
            self._enter("live", now_s)
            self._frames_from_s = now_s
        self._seen, self.last_s = True, now_s
        self._waiting_s, self._tell_s = now_s, math.inf
        self._deadline_s = now_s + self._limits.stall_timeout_s
        if self._outage_s is not None and now_s - self._frames_from_s >= _STEADY_S:
            self._news.append(f"{self._name} is back after {self._frames_from_s - self._outage_s:.1f} s")
            self._outage_s, self._retries = None, 0
        return begins

    def failed(self, now_s: float, error: Exception) -> None:
        """The source could not be opened, has failed or has ended."""
        begun = self._lose(now_s, error)
        self._deadline_s = math.inf
        most = self._limits.max_retries if self._again else 0
        if most is not None and self._retries >= most:
            self._given_up, self._open_s, self._tell_s = True, now_s, math.inf
            return
        self._open_s = now_s + self._wait_s(now_s)
        if begun:
            still = "it is opened again until it is back" if self._seen else "it is tried until it is there"
            self._news.append(f"{self._name}: {error}; {still} (--max-retries 0 ends instead)")

    def ended(self, now_s: float, error: BaseException | None = None) -> None:
        """Nothing more is to be had from it, or wanted: there is nothing to wait for."""
        self.error = error or self.error
        self._enter("ended" if error is None else "failed", now_s)
        self._tell_s = self._open_s = self._deadline_s = math.inf

    def act(self, now_s: float, hanging: int = 0) -> list[Action]:
        """What is to be done now, in this order. hanging: threads that were abandoned and are not back yet."""
        actions = []
        if now_s >= self._deadline_s:
            actions += self._stalled(now_s)
        if self._given_up:
            self._given_up = False
            self.ended(now_s, self.error)
            return [*actions, Action.GIVE_UP]
        if now_s >= self._tell_s:
            self._enter("no_signal", now_s)
            self._tell_s = now_s + TELL_S
            actions.append(Action.TELL)
        if now_s >= self._open_s and hanging < MOST_HANGING:
            self._retries += self.error is not None
            self._open_s, self._waiting_s = math.inf, now_s
            self._deadline_s = now_s + max(OPEN_TIMEOUT_S, self._limits.stall_timeout_s)
            actions.append(Action.OPEN)
        return actions

    def wakes_s(self, hanging: int = 0) -> float:
        """When ``act`` should be called next, if nothing happens until then; infinity for never."""
        return min(self._tell_s, self._deadline_s, self._open_s if hanging < MOST_HANGING else math.inf)

    def take_news(self) -> list[str]:
        """What a log should say, one sentence each: that an outage began, that it is over."""
        news, self._news = self._news, []
        return news

    def report(self, now_s: float) -> dict[str, Any]:
        """{"state", "state_for_s", "reconnects", "last_error"} as plain JSON values."""
        return {
            "state": self.state,
            "state_for_s": round(max(0.0, now_s - self.since_s), 3),
            "reconnects": self.reconnects,
            "last_error": None if self.error is None else str(self.error),
        }

    def _stalled(self, now_s: float) -> list[Action]:
        error = CameraError(f"no frame for {now_s - self._waiting_s:.1f} s")
        if self._again:
            self.failed(now_s, error)
            return [Action.ABANDON]
        self._lose(now_s, error)
        self._deadline_s = math.inf
        self._news.append(f"{self._name}: {error}; it cannot be opened again, and is waited for")
        return []

    def _lose(self, now_s: float, error: Exception) -> bool:
        """Returns whether an outage begins with it."""
        self.error = error
        if self.state != "no_signal":
            self._tell_s = now_s
            self._enter("no_signal", now_s)
        begins = self._outage_s is None
        if begins:
            self._outage_s = now_s
        return begins

    def _wait_s(self, now_s: float) -> float:
        if isinstance(self.error, AccessDenied):
            return _MOST_S
        wait_s = min(max(_SHARE * (now_s - self._outage_s), _LEAST_S), _MOST_S)
        return wait_s * (1 - 0.25 * self._jitter())

    def _enter(self, state: str, now_s: float) -> None:
        if state != self.state:
            self.state, self.since_s = state, now_s
