"""Decisions and events as lines of text, and as plain JSON values."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ...printable import printable
from ...types import MAIN, Event, Prediction

RANDOM_WEIGHTS_NOTE = "[random weights: labels mean nothing]"


def describe(prediction: Prediction) -> str:
    """A prediction as one line of text."""
    words = [] if prediction.stream == MAIN else [f"{prediction.stream:12s}"]
    words += [f"{prediction.t_end_s:9.2f} s", f"{prediction.state:8s}"]
    if prediction.label is not None:
        words += [f"{printable(prediction.label):24s} {prediction.score:6.1%}"]
    words += [f"{prediction.age_ms:7.1f} ms old"]
    if prediction.dropped:
        words += [f"{prediction.dropped} dropped"]
    if prediction.random_weights and prediction.label is not None:
        words += [RANDOM_WEIGHTS_NOTE]
    return "  ".join(words)


def describe_event(event: Event) -> str:
    """An event as one line of text."""
    words = [] if event.stream == MAIN else [f"{event.stream:12s}"]
    words += [f"{event.t_start_s:9.2f} s", "begins  " if event.t_end_s is None else "ended   "]
    words += [f"{printable(event.label):24s} {event.peak_score:6.1%}"]
    if event.t_end_s is not None:
        words += [f"{event.t_end_s - event.t_start_s:7.2f} s long"]
    return "  ".join([*words, f"event {event.id}"])


def to_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain JSON values, under the names of Prediction's fields; scores and logits are left out."""
    return {
        "stream": prediction.stream,
        "state": prediction.state,
        "label": prediction.label,
        "score": None if prediction.score is None else round(prediction.score, 6),
        "topk": [[label, round(score, 6)] for label, score in prediction.topk],
        "t_start_s": round(prediction.t_start_s, 6),
        "t_end_s": round(prediction.t_end_s, 6),
        "age_ms": round(prediction.age_ms, 3),
        "seq": prediction.seq,
        "dropped": prediction.dropped,
        "random_weights": prediction.random_weights,
    }


def event_to_json(event: Event, at: str | None = None) -> dict[str, Any]:
    """An event as plain JSON values, under the names of Event's fields. at: when it was told, as ``utc_now`` gives
    it, which is the default; the event's own times are on its source's clock."""
    return {
        "id": event.id,
        "stream": event.stream,
        "label": event.label,
        "t_start_s": round(event.t_start_s, 6),
        "t_end_s": None if event.t_end_s is None else round(event.t_end_s, 6),
        "peak_score": round(event.peak_score, 6),
        "at": at or utc_now(),
    }


def utc_now() -> str:
    """The time of day in ISO 8601, in UTC and to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
