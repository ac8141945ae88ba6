"""Runtime: a plan, opened and ready, inside any Python program."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.selection import open_engines
from ..errors import ShapeError, VlfError
from ..plan import Plan
from ..types import MAIN, Event, Prediction
from .camera import cameras_by_stream, find_by_stream
from .capture import PUSHED
from .energy import Usage
from .event_settings import EventSettings
from .events import EventDetector
from .limits import Limits
from .pipeline import Pipeline
from .play import play
from .recognizer import Recognizer
from .regions import Regions
from .self_test import check_answers
from .sinks import RANDOM_WEIGHTS_NOTE, Sink
from .stats import describe_run
from .whole_clip import classify_file

log = logging.getLogger(__name__)


class Runtime:
    """Runs a vlf.plan on any number of streams, by ``stream`` or by ``push``: one of them at a time, on one thread.

    plan: path of a vlf.plan, or a Plan. backend: "auto" picks the fastest that is here; or a name of the table of
    backends (backends/table.py), such as "openvino". device: number of the GPU. rebuild: "never", "auto" (where no
    engine of the plan fits the GPU, the first start builds one) or "always"; cuda_graph, threads: see ``open_engines``.
    phases: interleaved sampling grids, for as many times more decisions a second (default: the plan's). topk: how many
    classes ``Prediction.topk`` lists. max_streams: most streams at a time. self_test: at the first start on a machine,
    hold the engines to the plan's golden windows (``self_test.check_answers``).

    >>> with Runtime("vlf.plan") as runtime:
    ...     for prediction in runtime.stream("/dev/video0"):
    ...         print(prediction.label, prediction.score)

    Raises PlanError, PlanMismatch (WrongAnswers after a self-test), BackendMissing, CompileError.
    """

    def __init__(
        self,
        plan: str | os.PathLike[str] | Plan,
        *,
        backend: str = "auto",
        device: int = 0,
        rebuild: str = "auto",
        cuda_graph: bool = True,
        threads: int | None = None,
        phases: int | None = None,
        topk: int = 5,
        max_streams: int = 1024,
        self_test: bool = True,
    ):
        self.plan = plan if isinstance(plan, Plan) else Plan.open(plan)
        manifest, head = self.plan.manifest, self.plan.head()
        sampling = manifest.sampling if phases is None else replace(manifest.sampling, phases=phases)
        self._pipeline: Pipeline | None = None
        self._regions: dict[str, Regions] = {}
        self._sinks: Sequence[Sink] = ()
        self._detector: EventDetector | None = None  # of the latest events() or run()
        self._usage = Usage(device)
        self._pushing = threading.Lock()

        def accept(engines: Mapping[str, Engine]) -> None:
            made = Recognizer(manifest, engines, head=head, sampling=sampling, topk=topk, max_streams=max_streams)
            if self_test:
                check_answers(self.plan, made.executor, engines, device=device, cuda_graph=cuda_graph)
                made.stats.reset()
            self.recognizer = made

        self._engines = open_engines(
            self.plan,
            backend=backend,
            device=device,
            rebuild=rebuild,
            cuda_graph=cuda_graph,
            threads=threads,
            accept=accept,
        )

    @property
    def backend(self) -> str:
        """Name of the library that runs the stages."""
        return next(iter(self._engines.values())).backend

    @property
    def labels(self) -> tuple[str, ...]:
        """The C class names, in the order of ``Prediction.scores``."""
        return self.plan.manifest.labels

    def push(self, frame: Any, t: float | None = None, *, stream: str = MAIN) -> Prediction | None:
        """One frame from the caller's own loop, on the caller's thread.

        frame: (H, W, 3) uint8 BGR. Where the plan runs on a GPU, also a contiguous array on that GPU (PyTorch, CuPy,
        PyCUDA, DLPack) of the model's size, which is taken without a copy to the host; it may be overwritten once this
        has returned.
        t: when it was taken, seconds on any steady clock; default: now. stream: which camera's; each has a window of
        its own and begins with its first frame.
        Returns a Prediction if the frame is on its stream's sampling grid, else None. Raises ShapeError, ModelError.
        """
        with self._alone():
            return self.recognizer.push(frame, t, stream=stream)

    def push_many(self, frames: Sequence[tuple[str, Any, float | None]]) -> list[Prediction | None]:
        """Frames of several streams, [(stream, frame, t), ...], run in batches: as ``push`` of each, in this order."""
        with self._alone():
            return self.recognizer.push_many(frames)

    def push_regions(
        self,
        frame: np.ndarray,
        t: float,
        boxes: Mapping[Hashable, Sequence[float]],
        *,
        stream: str = MAIN,
        margin: float = 0.1,
    ) -> dict[Hashable, Prediction | None]:
        """One frame of a camera with the tracked people or objects in it, each decided about by itself.

        frame: (H, W, 3) uint8 BGR. t: seconds. boxes: {track: (x1, y1, x2, y2)} in pixels, from a detector and a
        tracker of the caller's. margin: what is added on each side, as a share of the box. Returns {track: Prediction
        or None}; see ``Regions.push`` for boxes that hold nothing and for tracks that go.
        """
        with self._alone():
            regions = self._regions.get(stream)
            if regions is None or regions.margin != margin:
                regions = self._regions[stream] = Regions(self.recognizer, stream, margin)
            return regions.push(frame, t, boxes)

    def forget(self, stream: str) -> None:
        """Drops a stream with its window and its counts."""
        with self._alone():
            self.recognizer.forget(stream)

    def stream(
        self,
        source: Any,
        *,
        fps: float | None = None,
        max_batch_delay_ms: float = 0.0,
        limits: Limits | None = None,
    ) -> Iterator[Prediction]:
        """Predictions from a source, captured and inferred on threads of their own, until it ends or the caller stops.

        source: see ``find_source``; or {name: source}, run together until all of them end: each prediction names its
        stream, and of several each has a last one, of the state "ended".
        max_batch_delay_ms: how long a frame may wait for frames of other streams, to be run in one batch.
        limits: how long to wait for a camera, and how late a decision may come; a ``Camera`` may have its own.
        Of a camera the newest decision is given, and those that the caller was too slow for are counted. One that is
        absent, stalls or fails gives predictions of the state "no_signal", one a second, and is opened again until it
        is back; a Source of the caller's own cannot be. Whatever else fails in a thread is raised here. Raises
        SourceError; CameraError after ``limits.max_retries``.
        """
        with self.pipeline(source, fps=fps, max_batch_delay_ms=max_batch_delay_ms, limits=limits) as steps:
            for step in steps:
                yield step.prediction

    def events(
        self,
        source: Any,
        settings: EventSettings | None = None,
        *,
        fps: float | None = None,
        max_batch_delay_ms: float = 0.0,
        limits: Limits | None = None,
    ) -> Iterator[Event]:
        """What lasts, in the predictions of a source: each Event as soon as it is sure (``t_end_s`` is None), and once
        more when it has ended. At the end of the source, by itself or by an error, all of them have.

        settings: see ``EventSettings``; the rest as for ``stream``. Raises what ``stream`` raises, and VlfError for
        settings that name labels that the plan has not.
        """
        detector = self._detector = self.event_detector(settings, source)
        try:
            for prediction in self.stream(source, fps=fps, max_batch_delay_ms=max_batch_delay_ms, limits=limits):
                yield from detector.add(prediction)
        except VlfError:
            yield from detector.finish()
            raise
        yield from detector.finish()

    def event_detector(self, settings: EventSettings | None = None, source: Any = ()) -> EventDetector:
        """For loops of your own: give it what ``push`` returns. source: whose streams may have settings of their own.
        Raises VlfError as ``events`` does."""
        of_streams = {name: camera.events for name, camera in cameras_by_stream(source).items()}
        return EventDetector(self.labels, self.recognizer.sampling.span_s, settings, of_streams)

    def pipeline(
        self,
        source: Any,
        *,
        fps: float | None = None,
        every_frame: bool = False,
        max_batch_delay_ms: float = 0.0,
        limits: Limits | None = None,
    ) -> Pipeline:
        """Like ``stream``, but giving (frame, prediction) steps; with ``every_frame`` also those without prediction.

        Raises VlfError while another stream runs.
        """
        with self._alone():
            if not 0 <= max_batch_delay_ms <= 10_000:
                raise VlfError(f"max_batch_delay_ms is {max_batch_delay_ms!r}; expected milliseconds from 0 to 10000")
            with ExitStack() as stack:
                cameras = find_by_stream(source, fps=fps)
                begun = {name: camera.begun(stack) for name, camera in cameras.items()}
                for name in begun:
                    self.recognizer.reset(name)
                self._pipeline = Pipeline(
                    self.recognizer,
                    begun,
                    every_frame=every_frame,
                    max_batch_delay_s=max_batch_delay_ms / 1e3,
                    limits=limits,
                    every_second=self._usage.read,
                )
                stack.pop_all()  # the pipeline closes them from here on
            return self._pipeline

    def run(
        self,
        source: Any,
        sinks: Sequence[Sink],
        *,
        fps: float | None = None,
        duration_s: float | None = None,
        max_batch_delay_ms: float = 0.0,
        limits: Limits | None = None,
        events: EventSettings | None = None,
    ) -> None:
        """Plays a source into sinks until it ends, the time is up, or a sink wants no more (``Sink.wants_more``).

        source, limits: as for ``stream``. events: also make events, for ``Sink.write_event``; those that are open at
        the end of the run end there. The sinks are closed at the end, whatever happens; in a program that runs under
        ``signals.run``, Ctrl-C and SIGTERM are such an end too. A slow sink belongs into a ``ThreadedSink``.
        """
        self._sinks = tuple(sinks)
        how = {"fps": fps, "max_batch_delay_ms": max_batch_delay_ms, "limits": limits}
        how["every_frame"] = any(sink.every_frame for sink in sinks)

        def detect() -> EventDetector | None:
            self._detector = None if events is None else self.event_detector(events, source)
            return self._detector

        play(lambda: self.pipeline(source, **how), self._sinks, detect, duration_s)

    def change_sources(self, gone: Collection[str] = (), new: Mapping[str, Any] | None = None) -> None:
        """``Pipeline.exchange`` while a run goes on: ends the streams that are ``gone``, begins those of ``new``,
        {name: source as of ``find_source``, or Camera}. Raises SourceError, VlfError; nothing has changed then."""
        if self._pipeline is None or not self._pipeline.running:
            raise VlfError("nothing runs: begin with stream(), pipeline() or run(), and change its sources then")
        cameras = find_by_stream(new) if new else {}
        with ExitStack() as stack:
            begun = {name: camera.begun(stack) for name, camera in cameras.items()}
            if self._detector is not None:
                stack.callback(self._detector.set_apart({name: camera.events for name, camera in cameras.items()}))
            self._pipeline.exchange(gone, begun)
            stack.pop_all()  # the pipeline closes them from here on

    def classify(self, clip: str | os.PathLike[str] | Sequence[np.ndarray] | np.ndarray) -> Prediction:
        """One decision over a whole clip: K frames, the middle of each of K equal segments; or, where a plan was taught
        actions and the clip is a file, which has times, the mean of its windows' probabilities.

        clip: anything ``open_source`` takes that ends, or n >= 1 images (H, W, 3) uint8 BGR. The streams' windows are
        left alone. Raises SourceError, ShapeError, ModelError.
        """
        with self._alone():
            if isinstance(clip, (Sequence, np.ndarray)) and not isinstance(clip, str):
                return self.recognizer.classify(clip)
            if not isinstance(clip, (str, os.PathLike)):
                raise ShapeError(f"classify takes a file name or a sequence of images, got {type(clip).__name__}")
            return classify_file(self.recognizer, os.fspath(clip))

    def reset(self, stream: str | None = None) -> None:
        """Forgets the frames of one stream (None: of every stream); counts stay."""
        with self._alone():
            self.recognizer.reset(stream)

    def stats(self) -> dict[str, Any]:
        """All figures, as plain JSON values: "backend"; "counts", "labels" and "ms" of all streams together
        (``Stats.summary``); "process": {"cpu_s", "joules", "mj_per_decision"} since the Runtime was opened; "streams":
        {name: {"counts", "labels", "ms"} and what is known of the source (``Capture.report``)}; "sinks": [what
        ``Sink.stats`` gives, of the latest ``run``]. docs/reliability.md names every key."""
        total = self.recognizer.total().summary()
        reports = {} if self._pipeline is None else self._pipeline.reports()
        streams = {
            name: {**stream.stats.summary(), **reports.get(name, PUSHED)}
            for name, stream in list(self.recognizer.streams.items())
        }
        process = self._usage.figures(total["counts"]["decisions"])
        sinks = [stats for sink in self._sinks if (stats := sink.stats()) is not None]
        return {"backend": self.backend, **total, "process": process, "streams": streams, "sinks": sinks}

    def summary(self) -> str:
        """``stats`` in a few lines of text, with a warning if the plan was never trained."""
        warning = f"\n{RANDOM_WEIGHTS_NOTE}" if self.plan.manifest.random_weights else ""
        stats = self.stats()
        rows = [self.recognizer.total().describe(), *describe_run(stats["process"], stats["streams"])]
        return "\n".join(rows) + f"; on {self.backend}{warning}"

    def close(self) -> None:
        """Ends a stream that is still running and releases the engines; idempotent."""
        if self._pipeline is not None:
            self._pipeline.close()
            if self._pipeline.running:
                log.warning("the engines are left to the system: one of them hangs in a run and cannot be closed")
                return
        for engine in self._engines.values():
            engine.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The engines and windows belong to one thread at a time, and to the stream's own while one runs."""
        if self._pipeline is not None and self._pipeline.running:
            raise VlfError(
                f"this Runtime is already streaming from {self._pipeline.name}: end that stream first (close its "
                "iterator), or open a second Runtime"
            )
        if not self._pushing.acquire(blocking=False):
            raise VlfError(
                "this Runtime is being used by another thread at this moment: give each thread a Runtime of its own, "
                "or collect the frames and give them to push_many"
            )
        try:
            yield
        finally:
            self._pushing.release()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()
