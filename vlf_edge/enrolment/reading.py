"""Clips -> what the plan's last stage says of their windows: through the sampler, the rings and the stages of a live
stream, so that what is enrolled is what a camera will show."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..backends.selection import open_engines
from ..errors import SourceError
from ..plan import Plan
from ..runtime.open_executor import open_executor
from ..runtime.self_test import accepting
from ..runtime.stream import DueFrame, Stream
from ..types import Frame
from ..video.preprocess import Preprocessor
from ..video.sources import Source, open_source

PHASES = 2  # grids that interleave: twice as many windows of a clip as a live stream takes
_STILL_FRAMES = 2
_MOVING_SHARE = 99  # of the pixels: that many per cent of them may be as still as they like


@dataclass(frozen=True)
class Reading:
    """One clip. seconds: how long it is. windows, mirrored: (n, D) float64, what is answered to its windows, and to
    their mirror images, n >= 0. still: (2, D), to two of its frames, as if nothing moved. moved: by how much of 255 the
    one per cent of the pixels that changes most does, between the two neighbours on the grid that differ most.
    """

    seconds: float
    windows: np.ndarray
    mirrored: np.ndarray
    still: np.ndarray
    moved: float


class Reader:
    """A plan on its engines. answer: roles of the outputs of its last stage to read, as of an Executor; other
    arguments: see ``open_engines`` and ``Runtime``. Close it after use, or use it as a context manager."""

    def __init__(
        self,
        plan: Plan,
        answer: Sequence[str],
        *,
        backend: str = "auto",
        device: int = 0,
        rebuild: str = "auto",
        cuda_graph: bool = True,
        threads: int | None = None,
        self_test: bool = True,
    ):
        manifest = plan.manifest
        self.sampling = replace(manifest.sampling, phases=PHASES)
        self._engines = open_engines(
            plan,
            backend=backend,
            device=device,
            rebuild=rebuild,
            cuda_graph=cuda_graph,
            threads=threads,
            accept=accepting(plan, device=device, cuda_graph=cuda_graph) if self_test else lambda engines: None,
        )
        try:
            self._executor = open_executor(manifest, self._engines, self.sampling, answer=answer)
        except BaseException:
            self.close()
            raise
        self._prepare = Preprocessor(manifest.preprocess)

    @property
    def least_s(self) -> float:
        """How long a clip must be for one window, in seconds."""
        return (self.sampling.frames - 1) * self.sampling.step_s

    def read(self, clip: str | Source, *, mirror: bool = True, still: bool = False) -> Reading:
        """clip: anything that ``open_source`` takes and that ends. mirror: also its mirror image. still: also two of
        its frames alone. Raises SourceError."""
        streams = [Stream(str(number), self.sampling) for number in range(1 + mirror)]
        found: list[list[np.ndarray]] = [[], []]
        shown: list[np.ndarray] = []
        first_s, last_s, moved = None, 0.0, 0.0
        with open_source(clip) as source:
            if source.live:
                raise SourceError(f"{source.name} is a camera and never ends; record clips with vlf-edge capture")
            for frame in source:
                first_s, last_s = frame.t_s if first_s is None else first_s, frame.t_s
                image = self._due(streams, frame, found)
                if image is not None:
                    moved = max(moved, _difference(shown[-1], image) if shown else 0.0)
                    shown.append(image)
        for stream in streams:
            self._executor.forget(stream)
        return Reading(
            seconds=last_s - (first_s or 0.0),
            windows=_stacked(found[0]),
            mirrored=_stacked(found[1]),
            still=self._still(shown) if still and shown else np.zeros((0, 0)),
            moved=moved,
        )

    def close(self) -> None:
        """Frees the engines; idempotent."""
        for engine in self._engines.values():
            engine.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _due(self, streams: list[Stream], frame: Frame, found: list[list[np.ndarray]]) -> np.ndarray | None:
        """Gives a frame, and its mirror image, to the streams; notes what is answered. Returns the frame as the model
        takes it, None if it is not on the grid."""
        slots = [stream.sampler.accept(frame.t_s, begins=frame.begins) for stream in streams]
        if slots[0] is None:
            return None
        image = self._prepare(frame.image)
        due = []
        for stream, slot, shown in zip(streams, slots, (image, image[:, ::-1])):
            stream.begin(slot)
            due.append(DueFrame(stream, np.ascontiguousarray(shown), slot, frame.t_s, frame.seq, time.monotonic()))
        for number, answer in enumerate(self._executor.step(due)):
            if answer is not None:
                found[number].append(answer)
        return image

    def _still(self, shown: list[np.ndarray]) -> np.ndarray:
        chosen = [shown[len(shown) * (2 * number + 1) // (2 * _STILL_FRAMES)] for number in range(_STILL_FRAMES)]
        windows = np.stack([np.stack([image] * self.sampling.frames) for image in chosen])
        return np.concatenate([self._executor.classify(window[np.newaxis]) for window in windows]).astype(np.float64)


def _stacked(answers: list[np.ndarray]) -> np.ndarray:
    return np.stack(answers).astype(np.float64) if answers else np.zeros((0, 0))


def _difference(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.percentile(np.abs(before.astype(np.int16) - after), _MOVING_SHARE))
