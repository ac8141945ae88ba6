"""Threads at the edge: one captures from each source, one infers for all of them, one watches, the caller consumes.

    capture threads --frames that are due--> backlog --batches--> inference thread --steps--> outbox --> caller

A camera's frames lose their worth: when the machine or the caller is too slow, the oldest are dropped and counted. A
file's wait. A camera that gives no frames is told of as "no_signal" and opened again (watchdog.py). A source that ends
for good ends its own stream; whatever else fails ends all of them, and the caller gets the error after the steps that
were already made.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ModelError
from ..types import Frame, Prediction
from ..video.sources import Address, Source
from .capture import Capture, Events
from .clock import Clock
from .limits import Limits
from .outbox import Outbox, Step
from .recognizer import MAIN, Recognizer
from .scheduler import Backlog, Waiting
from .stream import DueFrame, Stream

log = logging.getLogger(__name__)
_JOIN_S = 1.5
_WATCH_S = 1.0


def _nothing() -> None:
    """To be called once a second, where nothing is to be done."""


class Pipeline:
    """Runs sources through a recogniser, each as a stream of its own; iterate over it for the steps, once.

    sources: {stream name: Source or Address}, or one of them; closed with the pipeline, while the recogniser stays
    open. An Address is opened here, and again if it is a camera's.
    every_frame: also hand over the steps without a prediction (for video sinks); otherwise only those with one.
    max_batch_delay_s: how long a frame may wait for frames of other streams, to be run in one batch with them.
    limits: how long to wait for what. clock: what they are measured by. every_second: called about so often.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        sources: Mapping[str, Source | Address] | Source | Address,
        *,
        every_frame: bool = False,
        max_batch_delay_s: float = 0.0,
        limits: Limits | None = None,
        clock: Clock | None = None,
        every_second: Callable[[], None] = _nothing,
    ):
        named = dict(sources) if isinstance(sources, Mapping) else {MAIN: sources}
        self.name = ", ".join(source.name for source in named.values())
        """The names of the sources, for messages."""
        self._work = _Work(
            recognizer, named, every_frame, max_batch_delay_s, limits or Limits(), clock or Clock(), every_second
        )
        # The threads know the work and not this object: dropped without a close, it still ends them.
        self._end = weakref.finalize(self, self._work.close)
        self._work.start()

    def __iter__(self) -> Iterator[Step]:
        try:
            while (step := self._work.receive()) is not None:
                yield step
        finally:
            self.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and closes the sources. Idempotent; returns within two seconds even if a source hangs in
        a read or an opening, or an engine in a run."""
        self._end()
        self._work.closed.wait(_JOIN_S)  # another thread may be at it

    def reports(self) -> dict[str, dict[str, Any]]:
        """{stream: what is known of its source} (``Capture.report``)."""
        return {capture.stream.name: capture.report() for capture in self._work.captures}

    @property
    def running(self) -> bool:
        """True while the recogniser is in use."""
        return self._work.inferring.is_alive()


class _Work:
    """What the threads of a pipeline share. One condition guards all of it, but for what a capture keeps to itself."""

    def __init__(
        self,
        recognizer: Recognizer,
        sources: Mapping[str, Source | Address],
        every_frame: bool,
        max_batch_delay_s: float,
        limits: Limits,
        clock: Clock,
        every_second: Callable[[], None],
    ):
        self._recognizer, self._every_frame, self._every_second = recognizer, every_frame, every_second
        self._limits, self._clock = limits, clock
        self._backlog = Backlog(recognizer.executor.max_batch, max_batch_delay_s)
        self._changed = threading.Condition()
        self._steps = Outbox(every_frame)
        self._closed = self._inferred = False
        self._error: BaseException | None = None
        self._run_began_s: float | None = None
        self._wake, self.closed = threading.Event(), threading.Event()
        events = Events(self._offer, self._tell_no_signal, self._end)
        self.captures = [
            Capture(recognizer.stream(name), source, limits, clock, events, self._wake)
            for name, source in sources.items()
        ]
        self._streams = {capture.stream.name: capture.stream for capture in self.captures}
        self._live = {capture.stream.name for capture in self.captures if capture.live}
        self.inferring = threading.Thread(target=self._infer, name="vlf-infer", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="vlf-watch", daemon=True)
        for capture in self.captures:
            self._backlog.open(capture.stream, live=capture.live)

    def start(self) -> None:
        self.inferring.start()
        for capture in self.captures:
            capture.start()
        self._watching.start()

    # The caller's thread.

    def receive(self) -> Step | None:
        """The oldest step; waits for one. None at the end, or raises what ended the streams."""
        with self._changed:
            while not self._steps and not self._inferred and not self._closed:
                self._changed.wait()
            if not self._steps:
                if self._error is not None and not self._closed:
                    raise self._error
                return None
            step = self._steps.take()
            self._changed.notify_all()
        if step.prediction is None or step.frame is None:
            return step
        return step._replace(prediction=self._aged(step))

    def _aged(self, step: Step) -> Prediction:
        """The prediction with its age, at the moment when the caller gets it."""
        age_ms = (self._clock.now_s() - step.frame.captured_s) * 1e3
        prediction = replace(step.prediction, age_ms=age_ms)
        if prediction.state != "ok":
            return prediction
        stats = self._streams[step.stream].stats
        stats.add_ms("age", age_ms)
        self._recognizer.stats.add_ms("age", age_ms)
        if self._limits.budget_ms is not None and age_ms > self._limits.budget_ms:
            stats.add(over_budget=1)
        if self._limits.max_staleness_s is None or age_ms <= self._limits.max_staleness_s * 1e3:
            return prediction
        stats.add(stale=1)
        return replace(prediction, state="stale", label=None, score=None, scores=None, logits=None, topk=())

    def close(self) -> None:
        with self._changed:
            first, self._closed = not self._closed, True
            self._steps.clear()
            self._backlog.discard()
            self._changed.notify_all()
        if not first:
            return
        self._wake.set()
        ending = [(capture, capture.close()) for capture in self.captures]
        deadline_s = time.monotonic() + _JOIN_S
        for thread in (self.inferring, self._watching, *(thread for _, threads in ending for thread in threads)):
            if thread is not threading.current_thread():  # the garbage collector closes from any thread
                thread.join(max(0.0, deadline_s - time.monotonic()))
        if self.inferring.is_alive() and self.inferring is not threading.current_thread():
            log.warning("the engine still hangs in a run %.1f s after the stream was closed", _JOIN_S)
        for capture, threads in ending:
            if any(thread.is_alive() and thread is not threading.current_thread() for thread in threads):
                log.warning("%s still hangs in a read %.1f s after it was closed", capture.name, _JOIN_S)
        self.closed.set()

    # The threads of the captures.

    def _offer(self, capture: Capture, frame: Frame) -> bool:
        stream = capture.stream
        due = self._recognizer.accept(
            stream, frame.image, frame.t_s, seq=frame.seq, captured_s=frame.captured_s, begins=frame.begins
        )
        if due is None and not self._every_frame:
            return True
        with self._changed:
            while self._backlog.must_wait(stream) and not self._over:
                self._changed.wait()
            if self._over:
                if due is not None:
                    stream.stats.drop("at_end")
                return False
            self._backlog.offer(Waiting(stream, frame, due))
            self._changed.notify_all()
        return True

    def _end(self, capture: Capture, error: BaseException | None, fatal: bool) -> None:
        with self._changed:
            self._backlog.end(capture.stream)
            if error is not None and not self._closed:
                if len(self.captures) > 1 and not fatal:
                    log.error("%s has ended, the other streams go on: %s", capture.stream.name, error)
                self._error = error if fatal else self._error or error
            if fatal:
                self._inferred = True
            self._changed.notify_all()

    # The thread that watches.

    def _watch(self) -> None:
        try:
            while not self._over:
                now_s = self._clock.now_s()
                wakes_s = min(now_s + _WATCH_S, *(capture.tend(now_s) for capture in self.captures))
                self._watch_engine(now_s)
                self._every_second()
                self._clock.wait(self._wake, max(0.0, wakes_s - self._clock.now_s()))
                self._wake.clear()
        except BaseException as error:
            self._fail(error)

    def _watch_engine(self, now_s: float) -> None:
        began_s = self._run_began_s
        if began_s is not None and now_s - began_s > self._limits.engine_timeout_s:
            self._fail(
                ModelError(
                    f"the engine has been at work on one batch for {now_s - began_s:.0f} s, on "
                    f"{self._recognizer.executor.backend}",
                    remedy="try another --backend, or allow it more with --engine-timeout",
                )
            )

    def _tell_no_signal(self, capture: Capture, silent_s: float) -> None:
        """Behind the frames that wait, so that the order of things is kept."""
        stream = capture.stream
        stream.last_used_s = time.monotonic()
        prediction = Prediction(
            "no_signal", capture.last_t_s, capture.last_t_s, seq=-1, age_ms=silent_s * 1e3, stream=stream.name,
            random_weights=self._recognizer.manifest.random_weights,
        )  # fmt: skip
        with self._changed:
            if not self._over:
                self._backlog.offer(Waiting(stream, None, None, prediction))
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """Ends all streams, with a thread that may hang."""
        with self._changed:
            self._error, self._inferred = error, True
            self._backlog.discard()
            self._changed.notify_all()
        for capture in self.captures:
            capture.close()

    # The thread that infers.

    def _infer(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                due = [waiting.due for waiting in batch if waiting.due is not None]
                predictions = iter(self._decide(due) if due else ())
                for waiting in batch:
                    prediction = next(predictions) if waiting.due is not None else waiting.prediction
                    self._send(Step(waiting.frame, prediction), waiting.stream)
        except BaseException as error:
            self._error = error
        with self._changed:
            self._inferred = True
            self._backlog.discard()
            self._changed.notify_all()
        self._wake.set()
        for capture in self.captures:
            capture.close()

    def _decide(self, due: list[DueFrame]) -> list[Prediction]:
        began_s = self._clock.now_s()
        for frame in due:
            self._recognizer.stats.add_ms("queue", max(0.0, began_s - frame.captured_s) * 1e3)
        self._run_began_s = began_s
        try:
            return self._recognizer.decide(due)
        finally:
            self._run_began_s = None

    @property
    def _over(self) -> bool:
        """Whether nobody takes frames any more."""
        return self._closed or self._inferred

    def _next_batch(self) -> list[Waiting] | None:
        with self._changed:
            while not self._over:
                wait_s = self._backlog.ready_in_s(time.monotonic())
                if wait_s == 0:
                    batch = self._backlog.take()
                    self._changed.notify_all()
                    return batch
                if self._backlog.ended:
                    return None
                self._changed.wait(wait_s)
        return None

    def _send(self, step: Step, stream: Stream) -> None:
        live = stream.name in self._live
        with self._changed:
            while not live and self._steps.full and not self._over:
                self._changed.wait()
            if not self._over:
                self._steps.put(step, stream, live=live)
                self._changed.notify_all()
