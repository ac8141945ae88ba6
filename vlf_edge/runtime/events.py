"""Decisions in, events out: an action that lasts, from when to when. Plain code without a clock or a thread.

    scores --smoothed over time--> one label at or above its threshold for long enough: Event --below ``leave``--> ended

A window of ``span_s`` answers late: it turns to an action when a share of it shows that (``start_lag``), and from it
when a share shows what came after (``end_lag``). It does so nearly at once, and an exponential average with the time
constant ``smooth_s`` then takes ``smooth_s * ln(1 / (1 - p))`` to rise to p and ``smooth_s * ln(1 / p)`` to fall to it.
So an event's times are those at which the smoothed probability crossed its threshold, less both. docs/events.md has the
figures.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ..errors import ShapeError, VlfError
from ..types import Event, Prediction
from .event_settings import EventSettings, nothing_in

_GAP_SPANS = 2.0


class _Rules:
    """Settings as they are for a plan's C labels: acts, which of them open events, (C,) bool; enter, leave: the
    thresholds; start_lag_s, end_lag_s: how much later than the action the average crosses them; each (C,) float64."""

    def __init__(self, labels: Sequence[str], span_s: float, settings: EventSettings):
        self.settings = settings
        self.ignored = nothing_in(labels) if settings.ignore is None else settings.ignore
        for flag, named in (("--event-thresholds", settings.threshold_of), ("--event-ignore", self.ignored)):
            if unknown := [label for label in named if label not in labels]:
                raise VlfError(f"{flag} names {unknown[0]!r}, which is no label; available: {', '.join(labels)}")
        enter = np.array([settings.threshold_of.get(label, settings.threshold) for label in labels])
        self.acts, self.enter = np.array([label not in self.ignored for label in labels]), enter
        self.leave = enter * (settings.leave / settings.threshold)
        self.start_lag_s = settings.start_lag * span_s - settings.smooth_s * np.log1p(-enter)
        self.end_lag_s = settings.end_lag * span_s - settings.smooth_s * np.log(self.leave)
        self.gap_s = _GAP_SPANS * span_s if settings.gap_s is None else settings.gap_s


class _Candidate:
    """A label at or above its threshold that is not yet an event. crossed_s: when its smoothed probability crossed the
    threshold. start_s: when the action began."""

    def __init__(self, index: int, crossed_s: float, start_s: float):
        self.index, self.crossed_s, self.start_s, self.peak = index, crossed_s, start_s, 0.0


class _Stream:
    """What is kept of one stream: a fixed amount.

    seen_s: newest frame. ok_s, scores, smoothed: of the newest decision; None before the first, and after a break.
    free_s: its events so far are over by then. ended_s: {label: when its last event ended}.
    """

    def __init__(self, rules: _Rules):
        self.rules = rules
        self.ended_s: dict[str, float] = {}
        self.open: Event | None = None
        self.start_anew()

    def start_anew(self) -> None:
        """Nothing before belongs with what comes; on another clock, perhaps."""
        self.seen_s = self.free_s = -math.inf
        self.ok_s = 0.0
        self.scores: np.ndarray | None = None
        self.smoothed: np.ndarray | None = None
        self.candidate: _Candidate | None = None
        self.ended_s.clear()


class EventDetector:
    """Makes events of the predictions of any number of streams. In one stream one event is open at a time, and each
    begins when the one before it has ended, or later: a classifier says one thing at a time.

    labels: C class names, in the order of ``Prediction.scores``. span_s: of the plan's windows. of_streams: {stream:
    settings instead of ``settings``}.
    max_streams: of more, the one longest without a prediction is finished. Raises VlfError for settings that name
    other labels.
    """

    def __init__(
        self,
        labels: Sequence[str],
        span_s: float,
        settings: EventSettings | None = None,
        of_streams: Mapping[str, EventSettings | None] = MappingProxyType({}),
        *,
        max_streams: int = 1024,
    ):
        if max_streams < 1:
            raise VlfError(f"max_streams is {max_streams}, expected 1 or more")
        self.labels, self._span_s, self._max_streams = tuple(labels), span_s, max_streams
        self._rules = _Rules(self.labels, span_s, settings or EventSettings())
        self._rules_of: dict[str, _Rules] = {}  # replaced, never changed
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._next_id = 0
        self.set_apart(of_streams)

    @property
    def ignored(self) -> tuple[str, ...]:
        """The labels that make no event, of streams without settings of their own."""
        return tuple(self._rules.ignored)

    def set_apart(self, of_streams: Mapping[str, EventSettings | None]) -> Callable[[], None]:
        """Gives streams settings of their own, or None, from when they begin anew: after "ended", or ``finish``. For
        any thread. Returns what takes it back. Raises VlfError, before anything changes."""
        before, made = self._rules_of, {}
        for name, settings in of_streams.items():
            try:
                made[name] = self._rules if settings is None else _Rules(self.labels, self._span_s, settings)
            except VlfError as error:
                raise VlfError(f"{name}: {error}") from None
        self._rules_of = {**before, **made}

        def take_back() -> None:
            self._rules_of = before

        return take_back

    def add(self, prediction: Prediction) -> list[Event]:
        """The events that this prediction opens (``t_end_s`` is None) or ends.

        A state other than "ok" says nothing of what goes on: an open event stays open until there was no decision for
        ``gap_s``, and then ends at the last one. It ends there too when time runs backwards, as at the next file of a
        folder. Scores that are no numbers count as such a state. "ended" is ``finish`` of its stream. Raises ShapeError
        for other scores than (C,).
        """
        if prediction.state == "ended":
            return self.finish(prediction.stream)
        events = self._make_room(prediction.stream)
        stream = self._streams[prediction.stream]
        now_s, scores = prediction.t_end_s, _scores(prediction, len(self.labels))
        if not math.isfinite(now_s):
            return events
        if stream.smoothed is not None and now_s - stream.ok_s > stream.rules.gap_s:
            events += self._close(stream, stream.ok_s)
            stream.smoothed = stream.candidate = None
        if prediction.state == "no_signal":  # no frame, and so no frame's time
            return events
        if now_s < stream.seen_s:
            events += self._close(stream, stream.ok_s)
            stream.start_anew()
        stream.seen_s = now_s
        if scores is not None:
            events += self._decide(stream, prediction, scores)
        return events

    def finish(self, stream: str | None = None) -> list[Event]:
        """Ends the open event of a stream (None: of every stream) at its last decision, and drops what is kept of it:
        to be called at the end of a source, or of a tracked person."""
        names = list(self._streams) if stream is None else [stream]
        ended = [self._streams.pop(name) for name in names if name in self._streams]
        return [event for one in ended for event in self._close(one, one.ok_s)]

    def _make_room(self, name: str) -> list[Event]:
        events = []
        if name not in self._streams:
            while len(self._streams) >= self._max_streams:
                events += self.finish(next(iter(self._streams)))
            self._streams[name] = _Stream(self._rules_of.get(name, self._rules))
        self._streams.move_to_end(name)
        return events

    def _decide(self, stream: _Stream, prediction: Prediction, scores: np.ndarray) -> list[Event]:
        now_s, before, before_s, rules = prediction.t_end_s, stream.smoothed, stream.ok_s, stream.rules
        stream.smoothed = smoothed = self._smooth(stream, scores, now_s)
        stream.scores, stream.ok_s = scores, now_s
        events = []
        if stream.open is not None:
            index = self.labels.index(stream.open.label)
            if smoothed[index] < rules.leave[index]:
                crossed_s = _crossing(before, smoothed, index, rules.leave[index], before_s, now_s)
                events += self._close(stream, crossed_s - float(rules.end_lag_s[index]))
            else:
                stream.open = replace(stream.open, peak_score=max(stream.open.peak_score, float(smoothed[index])))
        self._choose(stream, prediction, before, before_s)
        return events + self._open(stream, prediction)

    def _smooth(self, stream: _Stream, scores: np.ndarray, now_s: float) -> np.ndarray:
        """The exponential average over time, however many decisions a second there are: exact for scores that run
        straight from one decision to the next."""
        smooth_s = stream.rules.settings.smooth_s
        if stream.smoothed is None or smooth_s == 0:
            return scores
        steps = (now_s - stream.ok_s) / smooth_s
        if steps == 0:
            return stream.smoothed
        kept, mean = math.exp(-steps), -math.expm1(-steps) / steps
        return kept * stream.smoothed + (mean - kept) * stream.scores + (1 - mean) * scores

    def _choose(self, stream: _Stream, prediction: Prediction, before: np.ndarray | None, before_s: float) -> None:
        """The candidate of the stream: the likeliest label that may make an event, if its threshold is reached and it
        is not open already."""
        rules, now_s = stream.rules, prediction.t_end_s
        smoothed = np.where(rules.acts, stream.smoothed, 0.0)
        index = int(np.argmax(smoothed))
        is_open = stream.open is not None and stream.open.label == self.labels[index]
        if smoothed[index] < rules.enter[index] or is_open:
            stream.candidate = None
            return
        if stream.candidate is None or stream.candidate.index != index:
            if before is None:  # it was under way already when the window began
                stream.candidate = _Candidate(index, now_s, prediction.t_start_s)
            else:
                crossed_s = _crossing(before, smoothed, index, rules.enter[index], before_s, now_s)
                stream.candidate = _Candidate(index, crossed_s, crossed_s - float(rules.start_lag_s[index]))
        stream.candidate.peak = max(stream.candidate.peak, float(smoothed[index]))

    def _open(self, stream: _Stream, prediction: Prediction) -> list[Event]:
        candidate, now_s, settings = stream.candidate, prediction.t_end_s, stream.rules.settings
        if candidate is None or now_s - candidate.crossed_s < settings.min_s:
            return []
        label = self.labels[candidate.index]
        rested_s = stream.ended_s.get(label, -math.inf) + settings.cooldown_s
        if now_s < rested_s:
            return []
        events = self._close(stream, candidate.start_s)
        start_s = max(candidate.start_s, stream.free_s, rested_s)
        stream.open = Event(prediction.stream, label, start_s, None, candidate.peak, self._next_id)
        self._next_id += 1
        stream.candidate = None
        return [*events, stream.open]

    def _close(self, stream: _Stream, t_s: float) -> list[Event]:
        if stream.open is None:
            return []
        ended, stream.open = replace(stream.open, t_end_s=max(t_s, stream.open.t_start_s)), None
        stream.ended_s[ended.label] = stream.free_s = ended.t_end_s
        return [ended]


def _scores(prediction: Prediction, classes: int) -> np.ndarray | None:
    """(C,) float64, or None if the prediction has none that are numbers."""
    if prediction.state != "ok" or prediction.scores is None:
        return None
    scores = np.asarray(prediction.scores, np.float64)
    if scores.shape != (classes,):
        raise ShapeError(f"a prediction has scores of shape {scores.shape}; expected ({classes},), one for each label")
    return scores if np.isfinite(scores).all() else None


def _crossing(
    before: np.ndarray, after: np.ndarray, index: int, level: float, before_s: float, after_s: float
) -> float:
    """When the value of ``index`` crossed the level between two decisions, on the straight line between them."""
    rise = float(after[index] - before[index])
    share = float(level - before[index]) / rise if rise else 1.0
    return before_s + min(max(share, 0.0), 1.0) * (after_s - before_s)
