"""A pipeline's threads: one captures from each source, one infers for all, one watches, the caller consumes.

    capture threads --frames that are due--> backlog --batches--> inference thread --steps--> outbox --> caller

A camera's frames lose their worth: when the machine or the caller is too slow, the oldest are dropped and counted. A
file's wait. A camera that gives no frames is told of as "no_signal" and opened again (watchdog.py). A source that ends
for good ends its own stream, which is told as "ended" where there are several; whatever else fails ends all of them,
and the caller gets the error after the steps that were already made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ..errors import ModelError, VlfError
from ..types import Frame, Prediction
from ..video.sources import Address, Source
from .camera import Camera
from .capture import Capture, Events
from .clock import Clock
from .limits import Limits
from .outbox import Outbox, Step
from .recognizer import Recognizer
from .scheduler import Backlog, Waiting
from .stream import DueFrame, Stream

log = logging.getLogger(__name__)
# A signal leaves a program little more than a second, in which the sinks and the summary come after this.
JOIN_S, _READ_S = 1.0, 0.5
_WATCH_S = 1.0
_OVER = "the run is over: its sources cannot be changed any more"


class Work:
    """What the threads of a pipeline share. One condition guards all of it, but for what a capture keeps to itself."""

    def __init__(
        self,
        recognizer: Recognizer,
        sources: Mapping[str, Source | Address | Camera],
        every_frame: bool,
        max_batch_delay_s: float,
        limits: Limits,
        clock: Clock,
        every_second: Callable[[], None],
    ):
        self._recognizer, self._every_frame, self._every_second = recognizer, every_frame, every_second
        self._limits, self._limits_of, self._clock = limits, {}, clock
        self._backlog = Backlog(recognizer.executor.max_batch, max_batch_delay_s)
        self._changed = threading.Condition()
        self._steps = Outbox(every_frame)
        self._closed = self._inferred = False
        self._error: BaseException | None = None
        self._errors: dict[Stream, BaseException] = {}  # of streams that have ended, while others go on
        self._run_began_s: float | None = None
        self._wake, self.closed = threading.Event(), threading.Event()
        self._events = Events(self._offer, self._tell_no_signal, self._end)
        # Replaced, never changed: other threads go through it.
        self.captures = [self._capture(recognizer.stream(name), source) for name, source in sources.items()]
        self.former: dict[str, Capture] = {}
        self._exchanging = threading.Lock()
        self._left: list[Stream] = []  # which the executor has not forgotten yet
        self._joined: set[Stream] = set()  # which were not there at the start
        self._several = len(sources) > 1  # a run of one stream ends with it, and says nothing more
        self._told: set[Stream] = set()  # whose end the caller knows, or will
        self.inferring = threading.Thread(target=self._infer, name="vlf-infer", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="vlf-watch", daemon=True)
        for capture in self.captures:
            self._backlog.open(capture.stream, live=capture.live)

    def _capture(self, stream: Stream, source: Source | Address | Camera) -> Capture:
        camera = Camera.of(source)
        limits = self._limits_of[stream.name] = camera.limits or self._limits
        return Capture(stream, camera.source, limits, self._clock, self._events, self._wake)

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
                error = self._error or next(iter(self._errors.values()), None)
                if error is not None and not self._closed:
                    raise error
                return None
            step = self._steps.take()
            self._changed.notify_all()
        if step.prediction is None or step.frame is None:
            return step
        return step._replace(prediction=self._aged(step))

    def _aged(self, step: Step) -> Prediction:
        """The prediction with its age, at the moment when the caller gets it."""
        age_ms = (self._clock() - step.frame.captured_s) * 1e3
        prediction = replace(step.prediction, age_ms=age_ms)
        if prediction.state != "ok":
            return prediction
        stats, limits = self._recognizer.stream(step.stream).stats, self._limits_of[step.stream]
        stats.add_ms("age", age_ms)
        self._recognizer.stats.add_ms("age", age_ms)
        if limits.budget_ms is not None and age_ms > limits.budget_ms:
            stats.add(over_budget=1)
        if limits.max_staleness_s is None or age_ms <= limits.max_staleness_s * 1e3:
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
        began_s = time.monotonic()
        _end_captures(self.captures)
        for thread in (self._watching, self.inferring):
            if thread is not threading.current_thread():  # the garbage collector closes from any thread
                thread.join(max(0.0, began_s + JOIN_S - time.monotonic()))
        if self.inferring.is_alive() and self.inferring is not threading.current_thread():
            log.warning("the engine still hangs in a run %.1f s after the stream was closed", JOIN_S)
        self.closed.set()

    # Any thread.

    def exchange(self, gone: Collection[str], new: Mapping[str, Source | Address | Camera]) -> None:
        """See ``Pipeline.exchange``. After an error the new sources are still the caller's to close."""
        with self._exchanging:
            with self._changed:  # at once, so that no moment without a stream ends the run
                known = {capture.stream.name: capture for capture in self.captures}
                self._check_exchange(known, gone, new)
                streams = self._recognizer.renew(new)
                begun = [self._capture(streams[name], source) for name, source in new.items()]
                for capture in begun:
                    self._backlog.open(capture.stream, live=capture.live)
                    self._joined.add(capture.stream)
                self._several = True
                ended = [known[name] for name in dict.fromkeys(gone)]
                for capture in ended:
                    self._take_out(capture)
                self._changed.notify_all()
            _end_captures(ended)  # a device is free before anybody opens it again
            with self._changed:
                if self._over and begun:
                    raise VlfError(_OVER)
                self.captures = [*self.captures, *begun]
            for capture in begun:
                capture.start()
            self._wake.set()

    def _check_exchange(self, known: Collection[str], gone: Collection[str], new: Collection[str]) -> None:
        if missing := [name for name in gone if name not in known]:
            raise VlfError(f"there is no stream {missing[0]!r} to be ended; running: {', '.join(known)}")
        if taken := [name for name in new if name in known and name not in gone]:
            raise VlfError(f"there is a stream {taken[0]!r} already: end it first, or take another name")
        if self._over:
            raise VlfError(_OVER)

    def _take_out(self, capture: Capture) -> None:
        """A stream has no part in the run any more; the caller learns it behind what was decided before."""
        stream = capture.stream
        self._backlog.remove(stream)
        self._errors.pop(stream, None)
        self._joined.discard(stream)
        self._left.append(stream)
        self.former[stream.name] = capture
        self.captures = [other for other in self.captures if other is not capture]
        if stream not in self._told:
            self._steps.put(Step(None, self._without_frame(capture, "ended")), stream, live=False)
        self._told.discard(stream)

    # The threads of the captures.

    def _offer(self, capture: Capture, frame: Frame) -> bool:
        stream = capture.stream
        due = self._recognizer.accept(
            stream, frame.image, frame.t_s, seq=frame.seq, captured_s=frame.captured_s, begins=frame.begins
        )
        if due is None and not self._every_frame:
            return stream in self._backlog
        with self._changed:
            while self._backlog.must_wait(stream) and not self._over:
                self._changed.wait()
            if self._over or stream not in self._backlog:
                if due is not None:
                    stream.stats.drop("at_end")
                return False
            self._backlog.offer(Waiting(stream, frame, due))
            self._changed.notify_all()
        return True

    def _end(self, capture: Capture, error: BaseException | None, fatal: bool) -> None:
        stream = capture.stream
        with self._changed:
            if stream not in self._backlog:
                return
            ended = self._without_frame(capture, "ended")
            self._backlog.offer(Waiting(stream, None, None, ended))  # behind what waits of it
            self._backlog.end(stream)
            fatal = fatal and stream not in self._joined  # what goes on already is worth more
            if error is not None and not self._closed:
                if len(self.captures) > 1 and not fatal:
                    log.error("%s has ended, the other streams go on: %s", stream.name, error)
                self._errors[stream] = error
            if fatal:
                self._error, self._inferred = error, True
            self._changed.notify_all()

    # The thread that watches.

    def _watch(self) -> None:
        try:
            while not self._over:
                now_s = self._clock()
                wakes_s = min([now_s + _WATCH_S, *(capture.tend(now_s) for capture in self.captures)])
                self._watch_engine(now_s)
                self._every_second()
                self._clock.wait(self._wake, max(0.0, wakes_s - self._clock()))
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
        prediction = self._without_frame(capture, "no_signal", silent_s)
        with self._changed:
            if not self._over:
                self._backlog.offer(Waiting(stream, None, None, prediction))
                self._changed.notify_all()

    def _without_frame(self, capture: Capture, state: str, silent_s: float = 0.0) -> Prediction:
        return Prediction(
            state, capture.last_t_s, capture.last_t_s + silent_s, seq=-1, age_ms=silent_s * 1e3,
            stream=capture.stream.name, random_weights=self._recognizer.manifest.random_weights,
        )  # fmt: skip

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
        began_s = self._clock()
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
                while self._left:  # none of it is in the executor's hands at this moment
                    self._recognizer.executor.forget(self._left.pop())
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
            live = self._backlog.is_live(stream)
            while not live and self._steps.full and stream in self._backlog and not self._over:
                self._changed.wait()
            if stream not in self._backlog:  # it was taken out while this was decided
                stream.stats.add(undelivered=int(not step.is_end))
            elif not self._over and (self._several or not step.is_end):
                self._steps.put(step, stream, live=live and not step.is_end)
                if step.is_end:
                    self._told.add(stream)
            self._changed.notify_all()


def _end_captures(captures: Collection[Capture]) -> None:
    """Closes captures and waits for their threads, but not for long."""
    ending = [(capture, capture.close()) for capture in captures]
    deadline_s = time.monotonic() + _READ_S
    for capture, threads in ending:
        others = [thread for thread in threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if any(thread.is_alive() for thread in others):
            log.warning("%s still hangs in a read or an opening %.1f s after it was closed", capture.name, _READ_S)
