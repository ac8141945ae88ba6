"""Clips -> what the plan's last stage says of their windows: through the sampler, the rings and the stages of a live
stream, so that what is enrolled is what a camera will show."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..backends.selection import open_engines
from ..errors import ModelError, SourceError
from ..plan import Plan
from ..runtime.executor import Executor
from ..runtime.open_executor import open_executor
from ..runtime.self_test import accepting
from ..runtime.stream import DueFrame, Stream
from ..types import Frame, Sampling
from ..video.motion_energy import moved_between
from ..video.preprocess import Preprocessor
from ..video.sources import Source, open_source

PHASES = 2  # grids that interleave: twice as many windows of a clip as a live stream takes
_STILL_FRAMES = 2


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
    def backend(self) -> str:
        """What the stages run on."""
        return self._executor.backend

    @property
    def least_s(self) -> float:
        """How long a clip must be for one window, in seconds."""
        return (self.sampling.frames - 1) * self.sampling.step_s

    def read(self, clip: str | Source, *, mirror: bool = True, still: bool = False) -> Reading:
        """clip: anything that ``open_source`` takes and that ends. mirror, still: see ``watch``. Raises SourceError."""
        watch = self.watch(mirror=mirror, still=still)
        with open_source(clip) as source:
            if source.live:
                raise SourceError(f"{source.name} is a camera and never ends; record clips with vlf-edge capture")
            for frame in source:
                watch.push(frame)
        return watch.finish()

    def watch(self, *, mirror: bool = True, still: bool = False) -> Watch:
        """A clip that is given frame by frame. mirror: also its mirror image. still: also two of its frames alone."""
        return Watch(self._executor, self._prepare, self.sampling, mirror, still)

    def follow(self) -> Follower:
        """A stream that never ends, given frame by frame."""
        return Follower(self._executor, self._prepare, [Stream("live", self.sampling)])

    def close(self) -> None:
        """Frees the engines; idempotent."""
        for engine in self._engines.values():
            engine.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


class Follower:
    """Streams of the same frames, the first as they are, a second one mirrored."""

    def __init__(self, executor: Executor, prepare: Preprocessor, streams: Sequence[Stream]):
        self._executor, self._prepare, self._streams = executor, prepare, streams

    def push(self, frame: Frame) -> tuple[np.ndarray | None, list[np.ndarray | None]]:
        """(the frame as the model takes it, None if it is not on the grid; what is answered to the window of each
        stream, None where it is not full). Raises ModelError for an answer that is no number."""
        slots = [stream.sampler.accept(frame.t_s, begins=frame.begins) for stream in self._streams]
        if slots[0] is None:
            return None, [None] * len(slots)
        image = self._prepare(frame.image)
        due = []
        for stream, slot, shown in zip(self._streams, slots, (image, image[:, ::-1])):
            stream.begin(slot)
            due.append(DueFrame(stream, np.ascontiguousarray(shown), slot, frame.t_s, frame.seq, time.monotonic()))
        answers = self._executor.step(due)
        if not all(answer is None or np.isfinite(answer).all() for answer in answers):
            raise ModelError(f"the model's answer is not a number, on {self._executor.backend}: its engines are broken")
        return image, answers

    def forget(self) -> None:
        """Frees what is kept of the frames."""
        for stream in self._streams:
            self._executor.forget(stream)


class Watch:
    """A clip on its way: frames in, its Reading out at the end. See ``Reader.watch``."""

    def __init__(self, executor: Executor, prepare: Preprocessor, sampling: Sampling, mirror: bool, still: bool):
        self._executor, self._sampling, self._wants_still = executor, sampling, still
        self._follower = Follower(executor, prepare, [Stream(str(number), sampling) for number in range(1 + mirror)])
        self._found: list[list[np.ndarray]] = [[], []]
        self._shown: list[np.ndarray] = []
        self._first_s, self._last_s, self._moved = None, 0.0, 0.0

    def push(self, frame: Frame) -> None:
        """The next frame."""
        self._first_s, self._last_s = frame.t_s if self._first_s is None else self._first_s, frame.t_s
        image, answers = self._follower.push(frame)
        for found, answer in zip(self._found, answers):
            if answer is not None:
                found.append(answer)
        if image is not None:
            self._moved = max(self._moved, moved_between(self._shown[-1], image) if self._shown else 0.0)
            self._shown.append(image)

    def finish(self) -> Reading:
        """What was seen of it."""
        self._follower.forget()
        return Reading(
            seconds=self._last_s - (self._first_s or 0.0),
            windows=_stacked(self._found[0]),
            mirrored=_stacked(self._found[1]),
            still=self._still() if self._wants_still and self._shown else np.zeros((0, 0)),
            moved=self._moved,
        )

    def _still(self) -> np.ndarray:
        shown = self._shown
        chosen = [shown[len(shown) * (2 * number + 1) // (2 * _STILL_FRAMES)] for number in range(_STILL_FRAMES)]
        windows = np.stack([np.stack([image] * self._sampling.frames) for image in chosen])
        return np.concatenate([self._executor.classify(window[np.newaxis]) for window in windows]).astype(np.float64)


def _stacked(answers: list[np.ndarray]) -> np.ndarray:
    return np.stack(answers).astype(np.float64) if answers else np.zeros((0, 0))
