"""Runtime: a plan, opened and ready, inside any Python program."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from .. import signals
from ..backends.selection import open_engines
from ..errors import ShapeError, SourceError, VlfError
from ..plan import Plan
from ..types import Prediction
from ..video.sampler import segment_centres
from ..video.sources import open_source
from .pipeline import Pipeline
from .recognizer import MAIN, Recognizer
from .regions import Regions
from .sinks import RANDOM_WEIGHTS_NOTE, Sink

log = logging.getLogger(__name__)


class Runtime:
    """Runs a vlf.plan on any number of streams, by ``stream`` or by ``push``: one of them at a time, on one thread.

    plan: path of a vlf.plan, or a Plan. backend: "auto" picks the fastest that is here; or a name of the table of
    backends (backends/table.py), such as "openvino". device: number of the GPU. rebuild: "never", "auto" (where no
    engine of the plan fits the GPU, the first start builds one) or "always"; cuda_graph, threads: see ``open_engines``.
    phases: interleaved sampling grids, for as many times more decisions a second (default: the plan's). topk: how many
    classes ``Prediction.topk`` lists. max_streams: most streams at a time.

    >>> with Runtime("vlf.plan") as runtime:
    ...     for prediction in runtime.stream("/dev/video0"):
    ...         print(prediction.label, prediction.score)

    Raises PlanError, PlanMismatch, BackendMissing, CompileError.
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
    ):
        self.plan = plan if isinstance(plan, Plan) else Plan.open(plan)
        manifest = self.plan.manifest
        sampling = manifest.sampling if phases is None else replace(manifest.sampling, phases=phases)
        self._pipeline: Pipeline | None = None
        self._regions: dict[str, Regions] = {}
        self._pushing = threading.Lock()
        self._engines = open_engines(
            self.plan, backend=backend, device=device, rebuild=rebuild, cuda_graph=cuda_graph, threads=threads
        )
        try:
            head = self.plan.head()
            self.recognizer = Recognizer(
                manifest, self._engines, head=head, sampling=sampling, topk=topk, max_streams=max_streams
            )
        except BaseException:
            self.close()
            raise

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

    def stream(self, source: Any, *, fps: float | None = None, max_batch_delay_ms: float = 0.0) -> Iterator[Prediction]:
        """Predictions from a source, captured and inferred on threads of their own, until it ends or the caller stops.

        source: see ``open_source``; or {name: source}, run together until all of them end: each prediction names its
        stream. max_batch_delay_ms: how long a frame may wait for frames of other streams, to be run in one batch.
        Of a camera the newest decision is given, and those that the caller was too slow for are counted.
        Whatever fails in a thread is raised here. Raises SourceError, CameraError.
        """
        with self.pipeline(source, fps=fps, max_batch_delay_ms=max_batch_delay_ms) as steps:
            for step in steps:
                yield step.prediction

    def pipeline(
        self, source: Any, *, fps: float | None = None, every_frame: bool = False, max_batch_delay_ms: float = 0.0
    ) -> Pipeline:
        """Like ``stream``, but giving (frame, prediction) steps; with ``every_frame`` also those without prediction.

        Raises VlfError while another stream runs.
        """
        with self._alone():
            if not 0 <= max_batch_delay_ms <= 10_000:
                raise VlfError(f"max_batch_delay_ms is {max_batch_delay_ms!r}; expected milliseconds from 0 to 10000")
            with ExitStack() as stack:
                named = source if isinstance(source, Mapping) else {MAIN: source}
                if not named:
                    raise SourceError("there is no source to stream from; expected {name: source} with one or more")
                sources = {str(name): stack.enter_context(open_source(one, fps=fps)) for name, one in named.items()}
                for name in sources:
                    self.recognizer.reset(name)
                self._pipeline = Pipeline(
                    self.recognizer, sources, every_frame=every_frame, max_batch_delay_s=max_batch_delay_ms / 1e3
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
    ) -> None:
        """Plays a source into sinks until it ends, the time is up, or a sink wants no more (``Sink.wants_more``).

        source: as for ``stream``. The sinks are closed at the end, whatever happens; in a program that runs under
        ``signals.run``, Ctrl-C and SIGTERM are such an end too. A slow sink belongs into a ``ThreadedSink``.
        """
        with ExitStack() as stack:
            for sink in sinks:
                stack.enter_context(sink)
            every_frame = any(sink.every_frame for sink in sinks)
            steps = stack.enter_context(
                self.pipeline(source, fps=fps, every_frame=every_frame, max_batch_delay_ms=max_batch_delay_ms)
            )
            if duration_s is not None:
                timer = threading.Timer(duration_s, steps.close)
                timer.daemon = True
                timer.start()
                stack.callback(timer.cancel)
            stack.enter_context(signals.telling(steps.close))
            for frame, prediction in steps:
                for sink in sinks:
                    sink.write(frame, prediction)
                if not all(sink.wants_more for sink in sinks):
                    break

    def classify(self, clip: str | os.PathLike[str] | Sequence[np.ndarray] | np.ndarray) -> Prediction:
        """One decision over a whole clip: K frames, the middle of each of K equal segments.

        clip: anything ``open_source`` takes that ends, or n >= 1 images (H, W, 3) uint8 BGR. The streams' windows are
        left alone. Raises SourceError, ShapeError, ModelError.
        """
        with self._alone():
            if isinstance(clip, (Sequence, np.ndarray)) and not isinstance(clip, str):
                return self.recognizer.classify(clip)
            if not isinstance(clip, (str, os.PathLike)):
                raise ShapeError(f"classify takes a file name or a sequence of images, got {type(clip).__name__}")
            return self._classify_file(os.fspath(clip))

    def _classify_file(self, clip: str) -> Prediction:
        with open_source(clip) as source:
            if source.live:
                raise SourceError(f"{clip} is a camera and never ends: classify takes files; for cameras use stream()")
            count = sum(1 for _ in source)
        if count == 0:
            raise SourceError(f"{clip} holds no frames to classify")
        wanted = set(segment_centres(count, self.recognizer.sampling.frames))
        with open_source(clip) as source:
            kept = [(frame.image, frame.t_s) for frame in source if frame.seq in wanted]
        images, times_s = zip(*kept)
        return self.recognizer.classify(images, times_s)

    def reset(self, stream: str | None = None) -> None:
        """Forgets the frames of one stream (None: of every stream); counts stay."""
        with self._alone():
            self.recognizer.reset(stream)

    def stats(self) -> dict[str, Any]:
        """{"backend", "counts", "labels", "ms"} of all streams together (``Stats.summary``), and "streams": {name:
        {"counts", "labels", "ms"}} of each."""
        streams = {name: stream.stats.summary() for name, stream in list(self.recognizer.streams.items())}
        return {"backend": self.backend, **self.recognizer.total().summary(), "streams": streams}

    def summary(self) -> str:
        """``stats`` in a few lines of text, with a warning if the plan was never trained."""
        warning = f"\n{RANDOM_WEIGHTS_NOTE}" if self.plan.manifest.random_weights else ""
        return f"{self.recognizer.total().describe()}; on {self.backend}{warning}"

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


def name_sources(sources: Sequence[str]) -> dict[str, str]:
    """A stream name for each source: the last part of its path, with a number where two are alike."""
    named: dict[str, str] = {}
    for source in sources:
        name = base = os.path.basename(source.rstrip("/")) or source
        number = 1
        while name in named:
            number += 1
            name = f"{base}#{number}"
        named[name] = source
    return named
