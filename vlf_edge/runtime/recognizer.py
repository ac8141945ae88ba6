"""Recognizer: push a frame of any stream, perhaps get a decision. Plain code; threads are pipeline.py's.

frame --accept: is it on its stream's grid? cut to size--> DueFrame --decide: executor, head, softmax--> Prediction
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.gpu_frame import GpuFrame, is_gpu_frame
from ..errors import ModelError, PlanMismatch, ShapeError, VlfError
from ..head import Head
from ..manifest import Manifest
from ..types import MAIN, Prediction, Sampling
from ..video.preprocess import Preprocessor, check_image
from ..video.sampler import segment_centres
from .open_executor import open_executor
from .stats import Stats
from .stream import DueFrame, Stream

_FAILURES = 3


class Recognizer:
    """Runs a plan over any number of streams, each frame encoded once.

    engines: {stage: engine}, for every stage of the manifest; they stay the caller's to close. head: ``Plan.head()``,
    what a plan that has one decides by. sampling: the plan's own unless given. topk: how many classes
    ``Prediction.topk`` lists. max_streams: most streams kept at a time.
    idle_s: a stream without a frame for so long (wall time) gives its place to a new one when all are taken.
    streams: {name: Stream}. stats: the times of all streams together, a batch counting once; counts are the streams'.
    """

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        *,
        head: Head | None = None,
        sampling: Sampling | None = None,
        topk: int = 5,
        max_streams: int = 1024,
        idle_s: float = 60.0,
    ):
        self.manifest = manifest
        self.sampling = sampling or manifest.sampling
        self.stats = Stats()
        if topk < 1:
            raise VlfError(f"topk is {topk}, expected 1 or more")
        if max_streams < 1:
            raise VlfError(f"max_streams is {max_streams}, expected 1 or more")
        if (head is None) != (manifest.head is None):
            raise PlanMismatch("this plan decides by its head: give the Recognizer plan.head(), which holds its arrays")
        self._head = head
        self._topk = min(topk, len(manifest.labels))
        self._max_streams, self._idle_s = max_streams, idle_s
        self._preprocess = Preprocessor(manifest.preprocess)
        answer = ("logits",) if head is None else head.info.reads
        self.executor = open_executor(manifest, engines, self.sampling, self.stats, answer)
        self.streams: dict[str, Stream] = {}

    def stream(self, name: str = MAIN) -> Stream:
        """The stream of that name, made when it is first asked for. Raises VlfError if there are too many."""
        return self.streams[name] if name in self.streams else self.renew([name])[name]

    def renew(self, names: Collection[str]) -> dict[str, Stream]:
        """Streams of these names that have seen nothing; counts of earlier ones go on.

        What is on its way for an earlier one stays apart from them, and ``executor.forget`` is the caller's to call
        for it. Raises VlfError, before anything changes, if there are too many.
        """
        self._make_room(sum(name not in self.streams for name in names))
        renewed = {}
        for name in names:
            stream = renewed[name] = Stream(name, self.sampling)
            stream.last_used_s = time.monotonic()
            if name in self.streams:
                stream.stats = self.streams[name].stats
            self.streams[name] = stream
        return renewed

    def forget(self, name: str) -> None:
        """Drops a stream with its window and counts; nothing happens if there is none."""
        stream = self.streams.pop(name, None)
        if stream is not None:
            self.executor.forget(stream)

    def reset(self, stream: str | None = None) -> None:
        """Forgets what one stream (None: every stream) has seen: its next frame begins a new window. Counts stay."""
        for name, one in self.streams.items():
            if stream is None or name == stream:
                one.reset()

    def total(self) -> Stats:
        """Counts and labels of all streams, with the times of the stages."""
        total = self.stats.copy()
        for stream in list(self.streams.values()):
            total.add_counts(stream.stats)
        return total

    def push(
        self,
        image: Any,
        t_s: float | None = None,
        *,
        stream: str = MAIN,
        seq: int | None = None,
        captured_s: float | None = None,
    ) -> Prediction | None:
        """One frame in, a prediction out if this frame is on its stream's sampling grid, else None.

        image: (H, W, 3) uint8 BGR; or, where the plan runs on a GPU, a contiguous frame on that GPU (PyTorch, CuPy,
        PyCUDA, DLPack), which must have the model's size already, since nothing resizes it.
        t_s: when it was taken, seconds on any steady clock (default: now).
        seq, captured_s: the frame's number and its arrival (time.monotonic).
        """
        due = self.accept(self.stream(stream), image, t_s, seq=seq, captured_s=captured_s)
        return None if due is None else self.decide([due])[0]

    def push_many(self, frames: Sequence[tuple[str, Any, float | None]]) -> list[Prediction | None]:
        """Frames of several streams at once, encoded and decided in batches: as ``push`` of each, in this order.

        frames: (stream, image, t_s) each; a stream may come more than once. All are checked before any is run.
        """
        checked = [(name, *self._check(image, t_s, None)) for name, image, t_s in frames]
        predictions: list[Prediction | None] = [None] * len(checked)
        waiting = [
            (number, due)
            for number, (name, image, t_s, captured_s) in enumerate(checked)
            if (due := self.accept(self.stream(name), image, t_s, captured_s=captured_s)) is not None
        ]
        while waiting:
            taken: set[Stream] = set()
            batch, later = [], []
            for number, due in waiting:
                full = due.stream in taken or len(batch) == self.executor.max_batch
                (later if full else batch).append((number, due))
                taken.add(due.stream)
            for (number, _), prediction in zip(batch, self.decide([due for _, due in batch])):
                predictions[number] = prediction
            waiting = later
        return predictions

    def accept(
        self,
        stream: Stream,
        image: Any,
        t_s: float | None = None,
        *,
        seq: int | None = None,
        captured_s: float | None = None,
        begins: bool = False,
    ) -> DueFrame | None:
        """Whether a stream's grid wants this frame: if so, the frame cut to size and ready for ``decide``.

        begins: nothing before it belongs with it. Streams may be served from threads of their own.
        Raises ShapeError, and ModelError once a stream's decisions were no numbers several times in a row.
        """
        image, t_s, captured_s = self._check(image, t_s, captured_s)
        if stream.failures >= _FAILURES:
            raise ModelError(
                f"{stream.name}: the model's answer was not a number {stream.failures} times without a good one "
                f"between them, on {self.executor.backend}: weights or engines are broken; try another backend, or "
                "build the plan anew"
            )
        stream.last_used_s = captured_s
        seq = stream.next_seq if seq is None else seq
        stream.next_seq = seq + 1
        slot = stream.sampler.accept(t_s, begins=begins)
        if slot is None:
            stream.stats.add(captured=1, off_grid=1)
            return None
        stream.stats.add(captured=1, waiting=1)
        started_s = time.perf_counter()
        try:
            prepared = image
            if not isinstance(image, GpuFrame):
                prepared = self._preprocess(image)
                self.stats.add_ms("preprocess", (time.perf_counter() - started_s) * 1e3)
        except BaseException:
            # The grid has moved past this frame: what comes next must not share a window with what was before.
            stream.sampler.reset()
            stream.ring.clear()
            stream.stats.add(waiting=-1, failed=1)
            raise
        return DueFrame(stream, prepared, slot, t_s, seq, captured_s, time.perf_counter() - started_s)

    def decide(self, due: Sequence[DueFrame]) -> list[Prediction]:
        """Runs frames that are due, each of another stream, at most ``executor.max_batch``: one prediction each.

        Raises VlfError if an engine fails; the windows of these streams then begin anew.
        """
        started_s = time.perf_counter()
        gaps = [frame.stream.begin(frame.slot) for frame in due]
        try:
            decided = self.executor.step(due)
        except BaseException:
            for frame in due:
                frame.stream.sampler.reset()
                frame.stream.ring.clear()
                frame.stream.stats.add(waiting=-1, failed=1)
            raise
        predictions = [self._predict(frame, gap, answer) for frame, gap, answer in zip(due, gaps, decided)]
        if any(prediction.state == "ok" for prediction in predictions):
            spent_s = time.perf_counter() - started_s + sum(frame.prepared_in_s for frame in due)
            self.stats.add_ms("decision", spent_s * 1e3)
        return predictions

    def classify(self, images: Sequence[np.ndarray] | np.ndarray, times_s: Iterable[float] | None = None) -> Prediction:
        """One decision over a whole clip, independent of any stream.

        images: n >= 1 of (H, W, 3) uint8 BGR; the middle frame of each of K equal segments is used, so that exactly
        K images are all used, in order. times_s: their instants in seconds (default: 0, 1, 2, ...).
        """
        captured_s = time.monotonic()
        if len(images) == 0:
            raise ShapeError("classify got no frames; it needs at least one (H, W, 3) uint8 image")
        times_s = list(range(len(images))) if times_s is None else list(times_s)
        if len(times_s) != len(images):
            raise ShapeError(f"classify got {len(images)} images but {len(times_s)} times")
        chosen = segment_centres(len(images), self.sampling.frames)
        with self.stats.timed("preprocess"):
            clip = np.stack([self._preprocess(images[i]) for i in chosen])
        answer = self.executor.classify(clip[np.newaxis])[0]
        if not np.isfinite(answer).all():
            raise ModelError("the model's answer to this clip is not a number: its weights or engines are broken")
        self.stats.add(clips=1)
        first_s, last_s = float(times_s[chosen[0]]), float(times_s[chosen[-1]])
        return self._decision(answer, MAIN, first_s, last_s, chosen[-1], captured_s)

    def _check(self, image: Any, t_s: float | None, captured_s: float | None) -> tuple[Any, float, float]:
        """The frame, its time and its arrival; a frame on the GPU as its GpuFrame. Raises ShapeError."""
        if is_gpu_frame(image):
            image = self.executor.borrow(image)
        elif not isinstance(image, GpuFrame):
            check_image(image)
        captured_s = time.monotonic() if captured_s is None else captured_s
        t_s = captured_s if t_s is None else float(t_s)
        if not math.isfinite(t_s):
            raise ShapeError(f"a frame's time is {t_s}; expected seconds on a steady clock")
        return image, t_s, captured_s

    def _make_room(self, count: int) -> None:
        """For so many streams more: where there are too many, those that are idle go. Raises VlfError."""
        if len(self.streams) + count <= self._max_streams:
            return
        now_s = time.monotonic()
        for name in [name for name, stream in self.streams.items() if now_s - stream.last_used_s > self._idle_s]:
            self.forget(name)
        if len(self.streams) + count > self._max_streams:
            raise VlfError(
                f"there are {len(self.streams)} streams already and all are in use; forget() those that have ended, or "
                "open the plan with a larger max_streams"
            )

    def _predict(self, frame: DueFrame, gap: bool, answer: np.ndarray | None) -> Prediction:
        stream, ring = frame.stream, frame.stream.ring
        stream.stats.add(waiting=-1, encoded=1)
        if answer is None:
            return self._without(frame, "gap" if gap else "warming")
        if not np.isfinite(answer).all():
            return self._failed(frame)
        decision = self._decision(
            answer, stream.name, ring.newest().t_start_s, frame.t_s, frame.seq, frame.captured_s, frame.dropped
        )
        stream.note_decision(decision.label)
        return decision

    def _failed(self, frame: DueFrame) -> Prediction:
        """An answer that is no number. What led to it shares no window with what comes."""
        stream = frame.stream
        stream.ring.clear()
        stream.failures += 1
        stream.stats.add(not_numbers=1)
        return self._without(frame, "failed")

    def _without(self, frame: DueFrame, state: str) -> Prediction:
        return Prediction(
            state=state,
            t_start_s=frame.t_s,
            t_end_s=frame.t_s,
            seq=frame.seq,
            age_ms=_age_ms(frame.captured_s),
            stream=frame.stream.name,
            dropped=frame.dropped,
            random_weights=self.manifest.random_weights,
        )

    def _decision(
        self,
        answer: np.ndarray,
        stream: str,
        t_start_s: float,
        t_end_s: float,
        seq: int,
        captured_s: float,
        dropped: int = 0,
    ) -> Prediction:
        """What the model answers to a window and what is known of its frames -> the decision."""
        logits = answer if self._head is None else self._head(answer)
        scores = _softmax(logits)
        topk = best_first(self.manifest.labels, scores, self._topk)
        return Prediction(
            state="ok",
            t_start_s=t_start_s,
            t_end_s=t_end_s,
            seq=seq,
            age_ms=_age_ms(captured_s),
            stream=stream,
            label=topk[0][0],
            score=topk[0][1],
            scores=scores,
            logits=logits.astype(np.float32),
            topk=topk,
            dropped=dropped,
            random_weights=self.manifest.random_weights,
        )


def best_first(labels: Sequence[str], scores: np.ndarray, count: int) -> tuple[tuple[str, float], ...]:
    """So many labels with their scores (C,), as ``Prediction.topk``."""
    return tuple((labels[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:count])


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    return (exponents / exponents.sum()).astype(np.float32)


def _age_ms(captured_s: float) -> float:
    return (time.monotonic() - captured_s) * 1e3
