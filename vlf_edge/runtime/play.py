"""The steps of a pipeline, played into sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from .. import signals
from ..types import Event
from .events import EventDetector
from .pipeline import Pipeline
from .sinks import Sink


def play(
    begin: Callable[[], Pipeline],
    sinks: Sequence[Sink],
    detect: Callable[[], EventDetector | None],
    duration_s: float | None,
) -> None:
    """Plays until the pipeline ends, the time is up, or a sink wants no more. Whatever happens, events that go on end,
    sinks learn that nothing more comes, and are closed, in this order.

    begin: opens the pipeline. detect: gives what makes events, None if none are wanted.
    """
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        stack.callback(lambda: [sink.no_more() for sink in sinks])
        detector = detect()
        if detector is not None:
            stack.callback(lambda: _write_events(sinks, detector.finish()))
        steps = stack.enter_context(begin())
        if duration_s is not None:
            timer = threading.Timer(duration_s, steps.close)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        stack.enter_context(signals.telling(steps.close))
        for frame, prediction in steps:
            over = prediction is not None and prediction.state == "ended"
            if detector is not None and over:  # its stream has nothing that could come after this
                _write_events(sinks, detector.add(prediction))
            for sink in sinks:
                sink.write(frame, prediction)
            if detector is not None and prediction is not None and not over:
                _write_events(sinks, detector.add(prediction))
            if not all(sink.wants_more for sink in sinks):
                break


def _write_events(sinks: Sequence[Sink], events: Sequence[Event]) -> None:
    for event in events:
        for sink in sinks:
            sink.write_event(event)
