"""Runtime: a plan, opened and ready, inside any Python program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends.selection import open_engines
from ..errors import ShapeError, SourceError, VlfError
from ..plan import Plan
from ..types import Prediction
from ..video.sampler import segment_centres
from ..video.sources import open_source
from .pipeline import Pipeline
from .recognizer import Recognizer
from .sinks import RANDOM_WEIGHTS_NOTE


class Runtime:
    """Runs a vlf.plan on one camera, by ``stream`` or by ``push``: one of them at a time.

    plan: path of a vlf.plan, or a Plan. backend: "auto" picks the fastest that is here; or "tensorrt",
    "tensorrt_rtx", "openvino", "onnxruntime". device: number of the GPU. rebuild: "never", "auto" (where no engine of
    the plan fits the GPU, the first start builds one) or "always"; cuda_graph: see ``open_engines``. phases:
    interleaved sampling grids, for as many times more decisions a second (default: the plan's). topk: how many classes
    ``Prediction.topk`` lists.

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
        phases: int | None = None,
        topk: int = 5,
    ):
        self.plan = plan if isinstance(plan, Plan) else Plan.open(plan)
        manifest = self.plan.manifest
        sampling = manifest.sampling if phases is None else replace(manifest.sampling, phases=phases)
        self._pipeline: Pipeline | None = None
        self._engines = open_engines(self.plan, backend=backend, device=device, rebuild=rebuild, cuda_graph=cuda_graph)
        try:
            self.recognizer = Recognizer(manifest, self._engines, sampling=sampling, topk=topk)
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

    def push(self, frame: Any, t: float | None = None) -> Prediction | None:
        """One frame from the caller's own loop, on the caller's thread.

        frame: (H, W, 3) uint8 BGR. Where the plan runs on a GPU, also a contiguous array on that GPU (PyTorch, CuPy,
        PyCUDA, DLPack) of the model's size, which is taken without a copy to the host; it may be overwritten once the
        next push of such a frame has returned, or this one with a decision.
        t: when it was taken, seconds on any steady clock; default: now.
        Returns a Prediction if the frame is on the sampling grid, else None. Raises ShapeError.
        """
        self._refuse_while_streaming()
        return self.recognizer.push(frame, t)

    def stream(self, source: Any, *, fps: float | None = None) -> Iterator[Prediction]:
        """Predictions from a source, captured and inferred on threads of their own, until it ends or the caller stops.

        source: see ``open_source``. Whatever fails in a thread is raised here. Raises SourceError, CameraError.
        """
        with self.pipeline(source, fps=fps) as steps:
            for step in steps:
                yield step.prediction

    def pipeline(self, source: Any, *, fps: float | None = None, every_frame: bool = False) -> Pipeline:
        """Like ``stream``, but giving (frame, prediction) steps; with ``every_frame`` also those without prediction.

        Raises VlfError while another stream runs.
        """
        self._refuse_while_streaming()
        opened = open_source(source, fps=fps)
        self.recognizer.reset()
        self._pipeline = Pipeline(self.recognizer, opened, every_frame=every_frame)
        return self._pipeline

    def classify(self, clip: str | os.PathLike[str] | Sequence[np.ndarray] | np.ndarray) -> Prediction:
        """One decision over a whole clip: K frames, the middle of each of K equal segments.

        clip: anything ``open_source`` takes that ends, or n >= 1 images (H, W, 3) uint8 BGR. The stream's window is
        left alone. Raises SourceError, ShapeError.
        """
        self._refuse_while_streaming()
        if isinstance(clip, (Sequence, np.ndarray)) and not isinstance(clip, str):
            return self.recognizer.classify(clip)
        if not isinstance(clip, (str, os.PathLike)):
            raise ShapeError(f"classify takes a file name or a sequence of images, got {type(clip).__name__}")
        with open_source(os.fspath(clip)) as source:
            if source.live:
                raise SourceError(f"{clip} is a camera and never ends: classify takes files; for cameras use stream()")
            count = sum(1 for _ in source)
        if count == 0:
            raise SourceError(f"{clip} holds no frames to classify")
        wanted = set(segment_centres(count, self.recognizer.sampling.frames))
        with open_source(os.fspath(clip)) as source:
            kept = [(frame.image, frame.t_s) for frame in source if frame.seq in wanted]
        images, times_s = zip(*kept)
        return self.recognizer.classify(images, times_s)

    def reset(self) -> None:
        """Forgets the frames pushed so far; counts stay."""
        self._refuse_while_streaming()
        self.recognizer.reset()

    def stats(self) -> dict[str, Any]:
        """Counts that add up and where the time went: see ``Stats.summary``."""
        return {"backend": self.backend, **self.recognizer.stats.summary()}

    def summary(self) -> str:
        """``stats`` in a few lines of text, with a warning if the plan was never trained."""
        warning = f"\n{RANDOM_WEIGHTS_NOTE}" if self.plan.manifest.random_weights else ""
        return f"{self.recognizer.stats.describe()}; on {self.backend}{warning}"

    def close(self) -> None:
        """Ends a stream that is still running and releases the engines; idempotent."""
        if self._pipeline is not None:
            self._pipeline.close()
        for engine in self._engines.values():
            engine.close()

    def _refuse_while_streaming(self) -> None:
        """The stream's thread has the engines and the window to itself."""
        if self._pipeline is not None and self._pipeline.running:
            raise VlfError(
                f"this Runtime is already streaming from {self._pipeline.source.name}: end that stream first (close "
                "its iterator), or open a second Runtime"
            )

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()
