"""When the frames of a network stream were taken, from what the stream says and from when they came."""

from __future__ import annotations

import logging

from ...printable import printable

log = logging.getLogger(__name__)

_UNSTAMPED = 10  # frames at the beginning that may lack a time stamp before the stream is taken to have none
_JUMP_S = 1.0  # a clock that goes back by more than this was set anew
_SETTLED_S, _JUDGED_S = 2.0, 10.0  # what had piled up while the stream was opened comes at once, and says nothing
_TRUE_RATE = (0.8, 1.25)


class Stamps:
    """Gives each frame its time, in seconds.

    own: by the stream's time stamps, as far as it has them; else by when frames arrive. A stream whose clock does not
    run as time does is told of once.
    """

    def __init__(self, name: str, *, own: bool):
        self._name, self._own = name, own
        self._last: tuple[float, float] | None = None  # time and arrival of the newest frame
        self._unstamped = 0
        self._first_s: float | None = None
        self._judged: tuple[float, float] | None = None  # where the judging of the clock begins
        self._told = False

    def stamp(self, own_s: float | None, arrived_s: float) -> tuple[float, bool] | None:
        """(when, whether nothing before belongs with it); None for a frame of unknown time, which is left out.

        own_s: its time stamp, None if it has none. arrived_s: monotonic.
        """
        if not self._own:
            return arrived_s, False
        if own_s is None and self._last is None:
            self._unstamped += 1
            self._own = self._unstamped < _UNSTAMPED
            return self.stamp(None, arrived_s) if not self._own else None
        t_s = own_s if own_s is not None else self._last[0] + (arrived_s - self._last[1])
        begins = self._last is not None and t_s < self._last[0] - _JUMP_S
        if self._last is not None and abs(t_s - self._last[0]) > _JUMP_S:
            self._judged = None
        self._judge(t_s, arrived_s)
        self._last = t_s, arrived_s
        return t_s, begins

    def _judge(self, t_s: float, arrived_s: float) -> None:
        if self._first_s is None:
            self._first_s = arrived_s
        if self._told or arrived_s < self._first_s + _SETTLED_S:
            return
        if self._judged is None:
            self._judged = t_s, arrived_s
        passed_s = arrived_s - self._judged[1]
        if passed_s >= _JUDGED_S:
            rate = (t_s - self._judged[0]) / passed_s
            if not _TRUE_RATE[0] < rate < _TRUE_RATE[1]:
                self._told = True
                log.warning(
                    "the time stamps of %s run at %.2f times real time, so its windows are not as long as the model's; "
                    "with --stamps arrival frames are timed when they arrive", printable(self._name), rate,
                )  # fmt: skip
            self._judged = t_s, arrived_s
