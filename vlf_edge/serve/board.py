"""What is shown: the newest of every stream, the newest events, the figures. Values only, no web.

The run writes, on its own thread, and only stores; whoever shows reads, on another.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..types import Event, Frame, Prediction
from .event_log import EventLog, Noted, to_json

_KEPT_DECISIONS = 40
_SILENT_S = 10.0  # without frames or decisions, after which something is wrong

# States of a source that are the last word on its stream, and those in which it says why there is nothing to see.
_OVER = {"ended": "ended", "failed": "given_up"}
_AWAY = ("waiting", "no_signal", "given_up")
_CLIP_WAIT_S = 120.0  # after an event has ended, for its clip to be written


@dataclass
class _Shown:
    """What is known of a stream. frame_s, since_s: of its newest frame, of its state, on the board's clock."""

    live: bool
    since_s: float
    state: str = "waiting"
    frame: Frame | None = None
    number: int = 0
    frame_s: float | None = None
    offset_s: float = 0.0
    prediction: Prediction | None = None
    decided: deque[tuple[str | None, float]] = field(default_factory=lambda: deque(maxlen=_KEPT_DECISIONS))


class Board:
    """The newest of a run.

    streams: {name: whether it is live}. plan: what is told of the plan (``plan_facts``). events: whether the run makes
    any. clip_of: gives the video of
    an event by its stream and number, or None. clock: ``time.monotonic``; wall: ``time.time``.
    """

    def __init__(
        self,
        streams: Mapping[str, bool],
        plan: Mapping[str, Any] | None = None,
        *,
        events: bool = True,
        clip_of: Callable[[str, int], Path | None] | None = None,
        most_events: int = 500,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        self.plan, self._makes_events = dict(plan or {}), events
        self.events = EventLog(most_events)
        self._clip_of, self._clock, self._wall = clip_of, clock, wall
        self._lock = threading.Lock()
        self._begun_s = clock()
        self._streams = {name: _Shown(live, self._begun_s) for name, live in streams.items()}
        self._clipless: dict[tuple[str, int], tuple[Event, float | None, float]] = {}
        self._steps = self._steps_then = 0
        self._captured: int | None = None
        self._stuck_s: float | None = None
        self._figures: Mapping[str, Any] = {}

    # What the run tells; none of it waits for anybody.

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        """One step of the run: see ``Sink.write``. The frame's image is kept until the next one comes."""
        about = frame or prediction
        if about is None:
            return
        now_s = self._clock()
        with self._lock:
            shown = self._shown(about.stream, now_s)
            if frame is not None:
                shown.frame, shown.number, shown.frame_s = frame, shown.number + 1, now_s
                shown.offset_s = self._wall() - max(0.0, now_s - frame.captured_s) - frame.t_s
                self._steps += 1
            if prediction is not None:
                shown.prediction = prediction
                shown.decided.append((prediction.label, prediction.score or 0.0))
                if prediction.state != shown.state:
                    shown.state, shown.since_s = prediction.state, now_s

    def write_event(self, event: Event) -> None:
        """An action that has begun or ended: see ``Sink.write_event``."""
        with self._lock:
            shown = self._shown(event.stream, self._clock())
            before = self.events.known(event)
            if before is not None:  # the source's clock may have begun anew since
                began_s = before.began_s
            else:
                began_s = event.t_start_s + shown.offset_s if shown.live and shown.frame is not None else None
            self.events.note(event, began_s, self._wall())
            if self._clip_of is not None and event.t_end_s is not None:
                self._clipless[event.stream, event.id] = (event, began_s, self._clock() + _CLIP_WAIT_S)

    def take_figures(self, figures: Mapping[str, Any]) -> None:
        """``Runtime.stats()``, about once a second: what comes in while nothing comes out shows a hang."""
        captured = int(figures.get("counts", {}).get("captured", 0))
        with self._lock:
            if self._steps != self._steps_then or captured == self._captured:
                self._stuck_s = None
            elif self._stuck_s is None:
                self._stuck_s = self._clock()
            self._figures, self._captured, self._steps_then = figures, captured, self._steps

    def find_clips(self) -> None:
        """Tells of events once more whose clip has become complete since; to be called about once a second."""
        with self._lock:
            waiting = list(self._clipless.items())
        for key, (event, began_s, until_s) in waiting:
            found = self.clip(*key) is not None
            with self._lock:
                if found:
                    self.events.note(event, began_s, self._wall())
                if found or self._clock() > until_s:
                    self._clipless.pop(key, None)

    # What is shown.

    def image(self, stream: str) -> tuple[int, np.ndarray] | None:
        """The newest image (H, W, 3) uint8 BGR of a stream and its number, counted up from 1; None without one.
        Raises KeyError for a stream that is not there."""
        with self._lock:
            shown = self._streams[stream]
            return None if shown.frame is None else (shown.number, shown.frame.image)

    def health(self) -> str | None:
        """What is wrong with the run as a whole; None if nothing is."""
        now_s = self._clock()
        with self._lock:
            failed = [name for name, shown in self._streams.items() if shown.state == "failed"]
            if failed:
                return f"the model failed: its answer is no number on {', '.join(failed)}"
            if self._stuck_s is not None and now_s - self._stuck_s >= _SILENT_S:
                return f"frames come in, but for {now_s - self._stuck_s:.0f} s no decision came out: the engine hangs"
            silent_s = [now_s - (self._begun_s if s.frame_s is None else s.frame_s) for s in self._streams.values()]
            if silent_s and min(silent_s) >= _SILENT_S:
                said = [f"{name}: {why}" for name in self._streams if (why := self._source(name).get("last_error"))]
                return f"no stream gives frames, for {min(silent_s):.0f} s" + (
                    f" ({'; '.join(said[:3])})" if said else ""
                )
        return None

    def state(self) -> dict[str, Any]:
        """Everything but the pictures and the events, as plain JSON values: docs/serve.md names them."""
        reason = self.health()
        now_s, wall_s = self._clock(), self._wall()
        with self._lock:
            shown = {name: replace(one, decided=one.decided.copy()) for name, one in self._streams.items()}
            cursor = self.events.cursor
        return {
            "now_s": round(wall_s, 3),
            "since_s": round(self._begun_s + wall_s - now_s, 3),
            "health": {"ok": reason is None, "reason": reason},
            "plan": self.plan,
            "streams": [self._stream_json(name, one, wall_s - now_s) for name, one in shown.items()],
            "stages": dict(self._figures.get("ms", {})),
            "sinks": list(self._figures.get("sinks", ())),
            "process": dict(self._figures.get("process", {})),
            "events": self._makes_events,
            "events_cursor": cursor,
        }

    def events_since(
        self, since: str = "", *, limit: int = 100, stream: str | None = None, label: str | None = None
    ) -> tuple[list[tuple[str, dict[str, Any]]], str]:
        """The newest ``limit`` events, in the order in which they were last told: ([(cursor, event)], cursor of now).

        since: a cursor, or a UNIX time in seconds; "" for all that are kept. Raises ValueError for neither.
        """
        after, told_since_s = 0, 0.0
        with self._lock:
            if re.fullmatch(r"\d+(\.\d+)?", since):
                told_since_s = float(since)
            elif since:
                after = self.events.seen(since)
            found = self.events.newest(
                after=after, told_since_s=told_since_s, limit=limit, stream=stream, label=label
            )  # fmt: skip
            cursor = self.events.cursor
        return [(self.events.cursor_of(noted), self._event_json(noted)) for noted in found], cursor

    def clip(self, stream: str, number: int) -> Path | None:
        """The video of an event, if there is one."""
        path = self._clip_of(stream, number) if self._clip_of else None
        return path if path is not None and path.is_file() else None

    def _shown(self, stream: str, now_s: float) -> _Shown:
        """A stream that was not announced may come, as when cameras are read anew."""
        return self._streams.setdefault(stream, _Shown(True, now_s))

    def _event_json(self, noted: Noted) -> dict[str, Any]:
        event = noted.event
        clip = f"/api/clips/{quote(event.stream, safe='')}/{event.id}" if self.clip(event.stream, event.id) else None
        return to_json(noted, clip)

    def _source(self, name: str) -> Mapping[str, Any]:
        """What the run knows of a stream: its counts, and how its source is."""
        return self._figures.get("streams", {}).get(name, {})

    def _stream_json(self, name: str, shown: _Shown, to_wall_s: float) -> dict[str, Any]:
        prediction, source = shown.prediction, self._source(name)
        state, since_s = shown.state, shown.since_s
        if source.get("state") in _OVER:
            state, since_s = _OVER[source["state"]], self._clock() - source.get("state_for_s", 0.0)
        if state not in ("ok", "stale"):
            prediction = None
        counts = source.get("counts", {})
        height_px, width_px = (0, 0) if shown.frame is None else shown.frame.image.shape[:2]
        return {
            "name": name,
            "live": shown.live,
            "state": state,
            "since_s": round(since_s + to_wall_s, 3),
            "reason": source.get("last_error") if state in _AWAY else None,
            "reconnects": source.get("reconnects", 0),
            "frame_s": None if shown.frame_s is None else round(shown.frame_s + to_wall_s, 3),
            "picture": shown.number,
            "width_px": width_px,
            "height_px": height_px,
            "label": prediction and prediction.label,
            "score": prediction and prediction.score,
            "topk": [list(pair) for pair in prediction.topk] if prediction else [],
            "age_ms": prediction and round(prediction.age_ms, 1),
            "decided": [[label, round(score, 3)] for label, score in shown.decided],
            "counts": dict(counts),
            "lost": lost(counts),
        }


def lost(counts: Mapping[str, int]) -> dict[str, int]:
    """What a stream has lost, by cause, of the causes that its counts tell apart (``Stats``)."""
    dropped = {name.removeprefix("dropped_"): n for name, n in counts.items() if name.startswith("dropped_")}
    if "dropped" in counts and not dropped:
        dropped = {"overload": counts["dropped"]}
    return dropped | {
        name: counts[name] for name in ("failed", "not_numbers", "stale", "undelivered") if name in counts
    }
