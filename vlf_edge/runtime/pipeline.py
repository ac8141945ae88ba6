"""Threads at the edge: one captures from each source, one infers for all of them, the caller consumes.

    capture threads --frames that are due--> backlog --batches--> inference thread --steps--> outbox --> caller

A camera's frames lose their worth: when the machine or the caller is too slow, the oldest are dropped and counted. A
file's wait. A source that fails ends its own stream; whatever else fails ends all of them, and the caller gets the
error after the steps that were already made.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ..types import Frame, Prediction
from ..video.sources import Source
from .recognizer import MAIN, Recognizer
from .scheduler import Backlog, Waiting
from .stream import Stream

log = logging.getLogger(__name__)
_JOIN_S = 1.5
_STEPS_PER_CAMERA = 8
_STEPS = 64


class Step(NamedTuple):
    """A frame that reached the recogniser, and the prediction it led to, if any; no frame where there is no signal."""

    frame: Frame | None
    prediction: Prediction | None


class Pipeline:
    """Runs sources through a recogniser, each as a stream of its own; iterate over it for the steps, once.

    sources: {stream name: Source}, or one Source; closed with the pipeline, while the recogniser stays open.
    every_frame: also hand over the steps without a prediction (for video sinks); otherwise only those with one.
    max_batch_delay_s: how long a frame may wait for frames of other streams, to be run in one batch with them.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        sources: Mapping[str, Source] | Source,
        *,
        every_frame: bool = False,
        max_batch_delay_s: float = 0.0,
    ):
        self.sources = {MAIN: sources} if isinstance(sources, Source) else dict(sources)
        self._work = _Work(recognizer, self.sources, every_frame, max_batch_delay_s)
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
        a read or an engine in a run."""
        self._end()

    @property
    def name(self) -> str:
        """The names of the sources, for messages."""
        return ", ".join(source.name for source in self.sources.values())

    @property
    def running(self) -> bool:
        """True while the recogniser is in use."""
        return self._work.inferring.is_alive()


class _Work:
    """What the threads of a pipeline share. One condition guards all of it."""

    def __init__(
        self, recognizer: Recognizer, sources: Mapping[str, Source], every_frame: bool, max_batch_delay_s: float
    ):
        self._recognizer, self._sources, self._every_frame = recognizer, sources, every_frame
        self._backlog = Backlog(recognizer.executor.max_batch, max_batch_delay_s)
        self._changed = threading.Condition()
        self._steps: deque[Step] = deque()
        self._live = {name for name, source in sources.items() if source.live}
        self._closed = self._inferred = False
        self._error: BaseException | None = None
        self._capturing = [
            self._thread("capture", self._capture, recognizer.stream(name), source) for name, source in sources.items()
        ]
        self.inferring = self._thread("infer", self._infer)
        for name, source in sources.items():
            self._backlog.open(recognizer.stream(name), live=source.live)

    def start(self) -> None:
        for thread in (self.inferring, *self._capturing):
            thread.start()

    def receive(self) -> Step | None:
        """The oldest step; waits for one. None at the end, or raises what ended the streams."""
        with self._changed:
            while not self._steps and not self._inferred and not self._closed:
                self._changed.wait()
            if not self._steps:
                if self._error is not None and not self._closed:
                    raise self._error
                return None
            step = self._steps.popleft()
            self._changed.notify_all()
        if step.prediction is None:
            return step
        age_ms = (time.monotonic() - step.frame.captured_s) * 1e3
        return step._replace(prediction=replace(step.prediction, age_ms=age_ms))

    def close(self) -> None:
        with self._changed:
            first, self._closed = not self._closed, True
            self._steps.clear()
            self._changed.notify_all()
        for source in self._sources.values():
            source.close()
        if not first:
            return
        deadline_s = time.monotonic() + _JOIN_S
        for thread in (self.inferring, *self._capturing):
            if thread is not threading.current_thread():  # the garbage collector closes from any thread
                thread.join(max(0.0, deadline_s - time.monotonic()))
        if self.inferring.is_alive() and self.inferring is not threading.current_thread():
            log.warning("the engine still hangs in a run %.1f s after the stream was closed", _JOIN_S)
        for thread, source in zip(self._capturing, self._sources.values()):
            if thread.is_alive() and thread is not threading.current_thread():
                log.warning("%s still hangs in a read %.1f s after it was closed", source.name, _JOIN_S)

    def _thread(self, what: str, run: Callable[..., None], *args) -> threading.Thread:
        return threading.Thread(target=run, args=args, name=f"vlf-{what}", daemon=True)

    def _capture(self, stream: Stream, source: Source) -> None:
        error: BaseException | None = None
        try:
            for frame in source:
                frame = replace(frame, stream=stream.name)
                due = self._recognizer.accept(
                    stream, frame.image, frame.t_s, seq=frame.seq, captured_s=frame.captured_s, begins=frame.begins
                )
                if due is None and not self._every_frame:
                    continue
                with self._changed:
                    while self._backlog.must_wait(stream) and not self._over:
                        self._changed.wait()
                    if self._over:
                        break
                    self._backlog.offer(Waiting(stream, frame, due))
                    self._changed.notify_all()
        except BaseException as failure:
            error = failure
        with self._changed:
            self._backlog.end(stream)
            if error is not None and not self._closed:
                if len(self._sources) > 1:
                    log.error("%s has ended, the other streams go on: %s", stream.name, error)
                self._error = self._error or error
            self._changed.notify_all()

    def _infer(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                due = [waiting.due for waiting in batch if waiting.due is not None]
                predictions = iter(self._recognizer.decide(due) if due else ())
                for waiting in batch:
                    prediction = next(predictions) if waiting.due is not None else None
                    self._send(Step(waiting.frame, prediction), waiting.stream)
        except BaseException as error:
            self._error = error
        with self._changed:
            self._inferred = True
            self._changed.notify_all()
        for source in self._sources.values():
            source.close()

    @property
    def _over(self) -> bool:
        """Whether nobody takes frames any more."""
        return self._closed or self._inferred

    def _next_batch(self) -> list[Waiting] | None:
        with self._changed:
            while not self._closed:
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
        with self._changed:
            if stream.name in self._live:
                step = self._make_room(step, stream)
            else:
                while len(self._steps) >= _STEPS and not self._closed:
                    self._changed.wait()
            if not self._closed:
                self._steps.append(step)
                self._changed.notify_all()

    def _make_room(self, step: Step, stream: Stream) -> Step:
        """A camera's newest decision is the one that counts: what the caller has not taken goes."""
        kept = _STEPS_PER_CAMERA if self._every_frame else 1
        waiting = [other for other in self._steps if other.frame.stream == stream.name]
        for lost in waiting[: max(0, len(waiting) + 1 - kept)]:
            self._steps = deque(other for other in self._steps if other is not lost)
            stream.stats.counts["undelivered"] += 1
            if lost.prediction is not None and lost.prediction.dropped and step.prediction is not None:
                dropped = lost.prediction.dropped + step.prediction.dropped
                step = step._replace(prediction=replace(step.prediction, dropped=dropped))
        return step
