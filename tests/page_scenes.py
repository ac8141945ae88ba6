"""Boards as runs of many kinds would fill them, from rendered motion: what the page is shown with and tested on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from vlf_edge import Frame, Prediction
from vlf_edge.serve import Board, PageServer
from vlf_edge.types import Event
from vlf_edge.video.motion_pattern import MotionPattern, parse_motion_url

LABELS = (
    "turning the handle of the garden gate without opening it",
    "still",
    "clockwise",
    "left",
    "approach",
    "recede",
    "nod",
)
SIZES = ((320, 180), (180, 320), (640, 120), (240, 240), (320, 240), (120, 400), (426, 240), (200, 150), (960, 540))
NAMES = (
    "front door",
    "loading dock, camera 2 of the north-western warehouse extension (replacement)",
    "panorama",
    "lab",
    "0",
    "lift",
    "motion?seed=7&seconds=60",
    "Küche",
    "yard",
)
REFUSED = "rtsp://dock.lan/stream: connection refused"
PLAN = {
    "file": "vlf-tiny-int8.plan", "digest": "8c4efdf2f1eac550", "model": "vlf-tiny", "precision": "int8",
    "backend": "openvino", "device": "CPU", "classes": 13, "frames": 8, "span_s": 2.0, "decisions_per_s": 4.0,
    "random_weights": False,
    "gate": {
        "passed": True, "measure": "accuracy", "windows": 390, "drop_points": 0.26, "max_drop_points": 1.0,
        "way": "int8 openvino",
    },
    "fidelity": {"way": "int8 openvino", "windows": 390, "accuracy": 0.974, "top1_agreement": 0.992, "relative": 0.03},
}  # fmt: skip


@contextmanager
def serving(board: Board, **options: Any) -> Iterator[PageServer]:
    """The page of a board, for as long as it is looked at."""
    server = PageServer(board, **options)
    try:
        yield server
    finally:
        server.close()


@lru_cache(maxsize=32)
def image(number: int, t_s: float = 0.4) -> np.ndarray:
    """The picture of stream ``number``: (H, W, 3) uint8."""
    width, height = SIZES[number % len(SIZES)]
    options = parse_motion_url(f"test://motion?seed={number + 1}&width={width}&height={height}&seconds=60")
    return MotionPattern(options).render(t_s + number)


def prediction(stream: str, seq: int, number: int = 0, state: str = "ok") -> Prediction:
    if state != "ok":
        return Prediction(state, seq / 4, seq / 4, seq, 12.0, stream=stream)
    score = 0.55 + 0.4 * np.sin(seq / 5 + number) ** 2
    names = LABELS[number % 7 :] + LABELS[: number % 7]
    if seq % 17 > 12:
        names = (names[1], names[0], *names[2:])
    topk = tuple((label, float(score if not i else (1 - score) * 0.6 / i)) for i, label in enumerate(names[:5]))
    return Prediction(
        "ok", seq / 4 - 2, seq / 4, seq, 31.4, label=topk[0][0], score=topk[0][1], topk=topk, stream=stream
    )


def figures(streams: tuple[str, ...], lost: int = 0, away: int | None = None) -> dict:
    """As ``Runtime.stats`` gives them."""
    ms = {
        "preprocess": (0.31, 0.44, 0.9),
        "frame_stage": (4.2, 5.13, 7.75),
        "clip_stage": (1.1, 1.4, 2.0),
        "decision": (5.9, 7.2, 11.02),
    }
    counts = {"captured": 14400, "encoded": 1920, "off_grid": 12477, "gaps": 1, "decisions": 1912, "dropped": 0}
    by_stream = {}
    for i, name in enumerate(streams):
        more = {"dropped": 3 * i, "dropped_overload": 3 * i, "undelivered": lost * i}
        source = {
            "source": name,
            "live": True,
            "state": "live",
            "state_for_s": 3600.0,
            "reconnects": 0,
            "last_error": None,
        }
        if i == away:
            source |= {
                "state": "no_signal",
                "last_error": REFUSED,
                "reconnects": 2,
            }
        by_stream[name] = {"counts": {**counts, **more}, "labels": {}, "ms": {}, **source}
    spread = {
        name: {"n": 1900, "mean": p50, "p50": p50, "p95": p95, "p99": p99, "max": 3 * p99}
        for name, (p50, p95, p99) in ms.items()
    }
    sink = {
        "state": "ok",
        "since_s": 3600.0,
        "unit": "steps",
        "dropped": 0,
        "failed": 0,
        "errors": 0,
        "last_error": None,
    }
    return {
        "backend": "openvino",
        "counts": {"captured": 14400 * len(streams)},
        "ms": spread,
        "streams": by_stream,
        "process": {"cpu_s": 812.5, "joules": {"package": 93.5}, "mj_per_decision": 12.2},
        "sinks": [
            {**sink, "name": "decisions.jsonl", "written": 7640},
            {**sink, "name": "https://hooks.lan/vlf", "state": "failing", "since_s": 72.0, "written": 31, "failed": 4}
            | {"errors": 19, "last_error": "503 Service Unavailable"},
        ],
    }


def board(
    count: int, *, plan: dict = PLAN, away: bool = False, events: int = 0, clip_of=None, steps: int = 60
) -> Board:
    """A board of ``count`` streams after ``steps`` decisions of each. away: the second one gives no signal."""
    names = NAMES[:count]
    made = Board(dict.fromkeys(names, True), plan, clip_of=clip_of)
    for i, name in enumerate(names):
        for seq in range(steps):
            state = "warming" if seq < 25 and i == 3 and seq > 20 else "ok"
            shown = Frame(image(i), seq / 4, seq, time.monotonic(), stream=name)
            made.write(shown, prediction(name, seq, i, state))
    if away and count > 1:
        made.write(None, prediction(names[1], -1, 1, "no_signal"))
    if steps:
        made.take_figures(figures(names, lost=2, away=1 if away else None))
    for number in range(events):
        stream, label = names[number % count], LABELS[number % len(LABELS)]
        begin_s = steps / 4 - 3 * (events - number)
        end_s = None if number == events - 1 else begin_s + 1.5 + number % 4
        made.write_event(Event(stream, label, begin_s, None, 0.7, number))
        if end_s is not None:
            made.write_event(Event(stream, label, begin_s, end_s, 0.7 + number % 3 / 10, number))
    return made
