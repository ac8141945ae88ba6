"""A sink on a thread of its own: a slow one, one that fails and one that hangs cost no decisions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...backoff import Backoff
from ...types import Event, Frame, Prediction
from ..channel import Channel, ChannelClosed
from .health import Health
from .sink import Sink

log = logging.getLogger(__name__)
_CLOSE_S = 5.0
_PATIENCE_S = 10.0
_TRIES = 3
_BACKOFF = Backoff()

Item = tuple[Frame | None, Prediction | None] | Event


class ThreadedSink(Sink):
    """Hands its steps and events to another sink, which it closes, on a thread of its own.

    capacity: most steps and events that wait. drop_oldest: whether a full one drops its oldest step, as for cameras;
    else ``write`` waits, as for files, but no longer than ``patience_s`` for a sink that takes nothing: from then on
    steps are dropped until it takes one. Events and ends of streams are dropped last.

    An error of the other sink is told in the log once, counted in ``health``, and goes no further: the step is tried
    again after ``backoff``, and given up after three attempts. raises: errors that are no failure but end the sink, and
    are raised by the next ``write`` or by ``close``. ``close`` waits five seconds at most.

    clock, pause: for tests. pause(seconds) returns True, at once, when the sink is closed meanwhile.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = 64,
        drop_oldest: bool = True,
        patience_s: float = _PATIENCE_S,
        backoff: Backoff = _BACKOFF,
        raises: tuple[type[BaseException], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
    ):
        self._sink, self._backoff, self._raises, self._clock = sink, backoff, raises, clock
        self.every_frame = sink.every_frame
        self.health = Health(sink.name, "steps and events", clock)
        self._steps: Channel[Item] = Channel(
            capacity, drop_oldest=drop_oldest, patience_s=patience_s, precious=_precious
        )
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._patience_s = patience_s
        self._busy_since_s: float | None = None
        self._told_s: float | None = None
        self._failures, self._closed = 0, False
        self._error: BaseException | None = None
        self.unfinished: BaseException | None = None
        """What the other sink's ``close`` failed with: its output is not complete, or not there."""
        self._thread = threading.Thread(target=self._write_all, name="vlf-sink", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._sink.name

    @property
    def dropped(self) -> int:
        """Steps and events that the other sink was too slow for."""
        return self._steps.dropped

    @property
    def wants_more(self) -> bool:
        return self._sink.wants_more

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        self._send((frame, prediction))

    def write_event(self, event: Event) -> None:
        self._send(event)

    def stats(self) -> dict[str, Any]:
        """``Health.stats``, with "waiting": steps and events that do; and "state" "hanging" if the other sink has not
        come back from a write in ``patience_s``. Of a sink that counts by itself its own ``stats``, with "missed":
        steps and events that never reached it."""
        mine = self.health.stats()
        mine["dropped"] += self.dropped
        stats = self._sink.stats() or mine
        if stats is not mine:
            stats["missed"] = mine["dropped"] + mine["failed"]
            if not self.health.ok:
                stats |= {key: mine[key] for key in ("state", "since_s", "last_error")}
        stats["waiting"] = len(self._steps)
        busy_since_s = self._busy_since_s
        if self._hangs(busy_since_s):
            stats |= {"state": "hanging", "since_s": round(self._clock() - busy_since_s, 3)}
        return stats

    def clip_of(self, stream: str, event_id: int) -> Path | None:
        return self._sink.clip_of(stream, event_id)

    def no_more(self) -> None:
        self._closing.set()
        self._steps.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.no_more()
        self._thread.join(_CLOSE_S)
        left = 0
        if self._thread.is_alive():
            left = len(self._steps)
            log.warning("%s still hangs %.0f s after the end and is left alone", self.name, _CLOSE_S)
        self.health.drops(self.dropped + left)
        self._steps.dropped = 0
        for health in (self.health, self._sink.health):
            if health is not None and (losses := health.losses()):
                log.warning("%s", losses)
        self._raise_error()

    def _send(self, item: Item) -> None:
        busy_since_s = self._busy_since_s
        if self._hangs(busy_since_s) and busy_since_s != self._told_s:
            self._told_s = busy_since_s
            self.health.fails(f"it has not come back from a write for {self._patience_s:.0f} s")
        try:
            self._steps.send(item)
        except ChannelClosed:
            self._raise_error()

    def _hangs(self, busy_since_s: float | None) -> bool:
        return busy_since_s is not None and self._clock() - busy_since_s > self._patience_s

    def _write_all(self) -> None:
        for item in self._steps:
            self._deliver(item)
        try:
            self._sink.close()
        except BaseException as error:
            if not isinstance(error, self._raises):
                self.health.fails(error)
                self.unfinished = error

    def _deliver(self, item: Item) -> None:
        for attempt in range(1, _TRIES + 1):
            self._busy_since_s = self._clock()
            try:
                self._sink.write_event(item) if isinstance(item, Event) else self._sink.write(*item)
            except BaseException as error:
                self._busy_since_s = None
                if isinstance(error, self._raises):
                    self._error = error
                    return self._steps.close(discard=True)
                self._failures += 1
                self.health.fails(error)
                if self._pause(self._backoff.delay_s(self._failures)) or attempt == _TRIES:
                    return self.health.gives_up()
            else:
                self._busy_since_s, self._failures = None, 0
                return self.health.wrote()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _precious(item: Item) -> bool:
    """Whether it says what nothing after it says."""
    return isinstance(item, Event) or (item[1] is not None and item[1].state == "ended")
