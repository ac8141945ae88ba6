"""How well events tell what happened when: matching with the truth, and the figures that follow. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..runtime.events import EventDetector
from ..types import Event, Prediction
from .scores import rounded

LEAST_IOU = 0.5
_DRAWS = 1000
_INTERVAL = (2.5, 97.5)


class Action(NamedTuple):
    """What really happened, on the stream's clock in seconds."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Played:
    """What a stream led to.

    name: of the stream. found: its events, ended, in the order in which they began to be told of. told_s: when that
    was. start_s, end_s: of the stream. truth: what happened. All times on the stream's clock. pairs: see ``match``.
    """

    name: str
    found: tuple[Event, ...]
    told_s: tuple[float, ...]
    start_s: float
    end_s: float
    truth: tuple[Action, ...] = ()
    pairs: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", match(self.found, self.truth))


def events_of(name: str, predictions: Iterable[Prediction], detector: EventDetector) -> Played:
    """The events of a stream's predictions, from its first to its last; what the truth is, others know."""
    found: dict[int, Event] = {}
    told_s: dict[int, float] = {}
    first_s, now_s = None, 0.0
    for prediction in predictions:
        now_s = prediction.t_end_s
        first_s = now_s if first_s is None else first_s
        for event in detector.add(prediction):
            found[event.id] = event
            told_s.setdefault(event.id, now_s)
    found |= {event.id: event for event in detector.finish()}
    return Played(name, tuple(found.values()), tuple(told_s.values()), now_s if first_s is None else first_s, now_s)


def overlap(event: Event, action: Action) -> float:
    """Their intersection over their union in time, 0 to 1. An event or action without length has none."""
    union_s = max(event.t_end_s, action.end_s) - min(event.t_start_s, action.start_s)
    common_s = min(event.t_end_s, action.end_s) - max(event.t_start_s, action.start_s)
    return max(0.0, common_s) / union_s if union_s > 0 else 0.0


def match(found: Sequence[Event], truth: Sequence[Action], least_iou: float = LEAST_IOU) -> tuple[tuple[int, int], ...]:
    """Pairs (number of an event, number of an action) of the same label that overlap by ``least_iou`` or more; each is
    in one pair at most, those that overlap most first."""
    all_pairs = [
        (overlap(event, action), i, j)
        for i, event in enumerate(found)
        for j, action in enumerate(truth)
        if event.label == action.label
    ]
    pairs: list[tuple[int, int]] = []
    for iou, i, j in sorted(all_pairs, key=lambda pair: (-pair[0], pair[1:])):
        if iou >= least_iou and all(i != one and j != other for one, other in pairs):
            pairs.append((i, j))
    return tuple(sorted(pairs))


def figures(streams: Sequence[Played]) -> dict[str, float]:
    """f1, precision and recall (0 to 1), false events per hour, and of the events that match, medians in seconds: how
    late they begin and end (signed, and without the sign), and how long after the action began they were told of. NaN
    where there is nothing to take it from."""
    return _figures(*_tables(streams), np.ones(len(streams), np.int64))


def _tables(streams: Sequence[Played]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of n streams with m matches in all: counts (n, 4) of matches, events, actions and hours; errors (m, 3) of start,
    end and telling, s; and the stream of each of these, (m,)."""
    counts = [(len(s.pairs), len(s.found), len(s.truth), (s.end_s - s.start_s) / 3600) for s in streams]
    errors = [
        (event.t_start_s - action.start_s, event.t_end_s - action.end_s, played.told_s[i] - action.start_s, number)
        for number, played in enumerate(streams)
        for i, j in played.pairs
        for event, action in [(played.found[i], played.truth[j])]
    ]
    table = np.array(errors, np.float64).reshape(-1, 4)
    return np.array(counts, np.float64).reshape(-1, 4), table[:, :3], table[:, 3].astype(np.int64)


def _figures(counts: np.ndarray, errors: np.ndarray, owners: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """``figures`` of the tables, with every stream counted so many times, (n,)."""
    hits, found, actions, hours = times @ counts
    errors = np.repeat(errors, times[owners], axis=0)
    start, end, told = np.median(errors, axis=0) if len(errors) else [np.nan] * 3
    off = np.median(np.abs(errors), axis=0) if len(errors) else [np.nan] * 3
    return {
        "f1": _share(2 * hits, found + actions),
        "precision": _share(hits, found),
        "recall": _share(hits, actions),
        "false_per_hour": _share(found - hits, hours),
        "start_error_s": float(start),
        "start_abs_error_s": float(off[0]),
        "end_error_s": float(end),
        "end_abs_error_s": float(off[1]),
        "told_after_s": float(told),
    }


def summarize_events(streams: Sequence[Played], labels: Sequence[str]) -> dict[str, Any]:
    """Plain JSON values: streams, hours, actions, events, least_iou, the ``figures`` and their intervals {name: [low,
    high]} (95 %, from 1000 draws of as many streams), per_class {label: {actions, hits, events}}."""
    return {
        "streams": len(streams),
        "hours": rounded(sum(s.end_s - s.start_s for s in streams) / 3600),
        "actions": sum(len(s.truth) for s in streams),
        "events": sum(len(s.found) for s in streams),
        "least_iou": LEAST_IOU,
        **{name: rounded(value) for name, value in figures(streams).items()},
        "intervals": _intervals(streams),
        "per_class": {label: _of_class(streams, label) for label in labels},
    }


def _intervals(streams: Sequence[Played]) -> dict[str, list[float | None]]:
    """By the bootstrap over streams, since what happens within one is not independent. Where no event was false, the
    rate's upper end is the one that a Poisson process would still be as quiet with in one case of 40."""
    if not streams:
        return {}
    tables, rng = _tables(streams), np.random.default_rng(0)
    draws = [
        _figures(*tables, np.bincount(rng.integers(len(streams), size=len(streams)), minlength=len(streams)))
        for _ in range(_DRAWS)
    ]
    found = {name: _spread(np.array([draw[name] for draw in draws])) for name in draws[0]}
    if found["false_per_hour"] == [0.0, 0.0]:
        found["false_per_hour"][1] = rounded(-np.log(1 - _INTERVAL[1] / 100) / tables[0][:, 3].sum())
    return found


def _spread(values: np.ndarray) -> list[float | None]:
    known = values[~np.isnan(values)]
    return [rounded(float(v)) for v in np.percentile(known, _INTERVAL)] if len(known) else [None, None]


def _of_class(streams: Sequence[Played], label: str) -> dict[str, int]:
    return {
        "actions": sum(action.label == label for s in streams for action in s.truth),
        "hits": sum(s.truth[j].label == label for s in streams for _, j in s.pairs),
        "events": sum(event.label == label for s in streams for event in s.found),
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
