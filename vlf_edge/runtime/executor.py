"""Executor: a plan opened on a device. It runs the frames of any number of streams in batches.

    frames that are due --encode--> one entry each --ring of the stream--> windows that are full --decide--> logits

What an entry is depends on the plan's stages:

    two stages      the first stage's tokens; the second stage decides from a window of them
    whole clip      the prepared image; the only stage decides from a window of them
    recurrent       what the stage gives for this frame and the state that the frame before left behind; without a
                    second stage these are the logits already, and the newest are the decision
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.gpu_frame import GpuFrame
from ..errors import PlanMismatch, ShapeError
from ..manifest import Manifest, StageRoles
from ..types import Sampling
from .stats import Stats
from .stream import DueFrame, Stream

# Frames of one step: more would only make the first of them wait.
MAX_BATCH = 32


class Executor(ABC):
    """Serves one thread at a time. Engines stay the caller's to close.

    max_batch: most frames of one ``step``. stats: gets the times of the stages, for a whole batch each.
    """

    max_batch = MAX_BATCH

    def __init__(self, stages: Sequence[StageRoles], engines: Mapping[str, Engine], sampling: Sampling, stats: Stats):
        self.sampling, self.stats = sampling, stats
        self.encoder, self.decider = _encoder_and_decider(stages, engines)
        if self.encoder is not None and self.encoder.roles.state and sampling.phases > 1:
            raise PlanMismatch(
                f"this plan's model carries a state from frame to frame, so its grids cannot interleave: phases is "
                f"{sampling.phases}, expected 1"
            )

    @abstractmethod
    def step(self, due: Sequence[DueFrame]) -> list[np.ndarray | None]:
        """Encodes frames that are due as one batch and decides all windows that they complete as another.

        due: at most ``max_batch``, each of another stream, whose ring they continue. Returns the logits (C,) of each
        frame's window, None where it is not full yet. Raises VlfError; the rings of these streams are then unsafe.
        """

    @abstractmethod
    def forget(self, stream: Stream) -> None:
        """Frees what is kept for a stream."""

    def borrow(self, image: Any) -> GpuFrame:
        """A frame that is on the GPU already, for ``step``, at the end of which it has been read. Any thread may call.

        Raises ShapeError if it cannot be taken as it is.
        """
        raise ShapeError(
            f"this {type(image).__name__} is on a GPU, but the plan runs on {self.backend}: give a NumPy array "
            "(H, W, 3) uint8, or open the plan on a GPU"
        )

    @property
    def backend(self) -> str:
        """Name of the library that runs the stages."""
        return (self.encoder or self.decider).engine.backend

    def classify(self, clips: np.ndarray) -> np.ndarray:
        """Whole clips, independent of any stream: (n, K, H, W, 3) uint8 BGR, prepared -> logits (n, C)."""
        entries = clips if self.encoder is None else self._encode_clips(clips)
        if self.decider is None:
            return entries[:, -1]
        with self.stats.timed(self.decider.timed_as):
            return self.decider.run(entries)[self.decider.output]

    def _encode_clips(self, clips: np.ndarray) -> np.ndarray:
        encoder, (n, frames) = self.encoder, clips.shape[:2]
        if not encoder.roles.state:
            with self.stats.timed(encoder.timed_as):
                entries = encoder.run(clips.reshape(n * frames, *clips.shape[2:]))[encoder.output]
            return entries.reshape(n, frames, *entries.shape[1:])
        state, entries = encoder.first_state(n), []
        for frame in range(frames):
            with self.stats.timed(encoder.timed_as):
                results = encoder.run(np.ascontiguousarray(clips[:, frame]), state)
            state = encoder.next_state(results)
            entries.append(results[encoder.output])
        return np.stack(entries, axis=1)


class StageRunner:
    """A stage with its engine: the main input and output by what they are for, and the state carried beside them."""

    def __init__(self, roles: StageRoles, engine: Engine):
        self.roles, self.engine = roles, engine
        self.timed_as = f"{roles.name}_stage"
        self.input, self.output = roles.main_input, roles.main_output
        self._states = [spec for spec in engine.inputs if spec.name in roles.state]

    def run(self, items: np.ndarray, state: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Every output for n items (n, ...), in batches as large as the engine takes. state: by input, (n, ...)."""
        return self.engine.infer_all({self.input: items, **(state or {})})

    def first_state(self, n: int) -> dict[str, np.ndarray]:
        """Zeros, as before the first frame: {input: (n, ...)}."""
        return {spec.name: np.zeros((n, *spec.shape[1:]), spec.dtype) for spec in self._states}

    def next_state(self, results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the next run takes, out of what this one gave."""
        return {name: results[self.roles.state[name]] for name in self.roles.state}


class HostExecutor(Executor):
    """Through arrays in the computer's memory, with engines of any backend."""

    def __init__(self, stages: Sequence[StageRoles], engines: Mapping[str, Engine], sampling: Sampling, stats: Stats):
        super().__init__(stages, engines, sampling, stats)
        self._entries: dict[Stream, np.ndarray] = {}
        self._states: dict[Stream, dict[str, np.ndarray]] = {}

    def step(self, due: Sequence[DueFrame]) -> list[np.ndarray | None]:
        entries = self._encode(due)
        windows: list[np.ndarray] = []
        full: list[int] = []
        for number, (frame, entry) in enumerate(zip(due, entries)):
            ring, kept = frame.stream.ring, self._kept(frame.stream, entry)
            for instant in range(frame.slot.first, frame.slot.last + 1):
                phase, places = ring.place(instant, frame.t_s)
                for place in places if self.decider else ():
                    kept[phase, place] = entry
            if ring.full:
                full.append(number)
                if self.decider:
                    phase, first, _, _ = ring.newest()
                    windows.append(kept[phase, first : first + self.sampling.frames])
        decisions: list[np.ndarray | None] = [None] * len(due)
        for number, logits in zip(full, self._decide(windows) if self.decider else entries[full]):
            decisions[number] = logits
        return decisions

    def forget(self, stream: Stream) -> None:
        self._entries.pop(stream, None)
        self._states.pop(stream, None)

    def _encode(self, due: Sequence[DueFrame]) -> np.ndarray:
        # One frame is the usual case, and needs no copy.
        images = due[0].image[np.newaxis] if len(due) == 1 else np.stack([frame.image for frame in due])
        encoder = self.encoder
        if encoder is None:
            return images
        state = self._state(due) if encoder.roles.state else None
        with self.stats.timed(encoder.timed_as):
            results = encoder.run(images, state)
        if state is not None:
            for number, frame in enumerate(due):
                following = encoder.next_state(results)
                self._states[frame.stream] = {name: values[number] for name, values in following.items()}
        return results[encoder.output]

    def _state(self, due: Sequence[DueFrame]) -> dict[str, np.ndarray]:
        """The states of these streams, side by side; a window that begins has none of the past in it."""
        state = self.encoder.first_state(len(due))
        for number, frame in enumerate(due):
            if not frame.stream.ring.empty:
                for name, values in self._states[frame.stream].items():
                    state[name][number] = values
        return state

    def _decide(self, windows: list[np.ndarray]) -> np.ndarray:
        if not windows:
            return np.empty(0)
        stacked = windows[0][np.newaxis] if len(windows) == 1 else np.stack(windows)
        with self.stats.timed(self.decider.timed_as):
            return self.decider.run(stacked)[self.decider.output]

    def _kept(self, stream: Stream, entry: np.ndarray) -> np.ndarray | None:
        """(P, 2K, ...): the entries of a stream's ring."""
        if self.decider is None:
            return None
        kept = self._entries.get(stream)
        if kept is None:
            kept = self._entries[stream] = np.zeros((*stream.ring.shape, *entry.shape), entry.dtype)
        return kept


def open_executor(
    manifest: Manifest, engines: Mapping[str, Engine], sampling: Sampling | None = None, stats: Stats | None = None
) -> Executor:
    """The best way to run these engines, {stage: engine}, on streams.

    sampling: the plan's own unless given. Raises PlanMismatch for stages that make no classifier of streams, VlfError.
    """
    sampling, stats = sampling or manifest.sampling, stats or Stats()
    stages = manifest.stage_roles
    try:
        executor: Executor
        two_stage = len(stages) == 2 and not any(roles.state for roles in stages)
        if two_stage and all(engine.chains_on_gpu for engine in engines.values()):
            from .tensorrt_executor import TensorRTExecutor

            executor = TensorRTExecutor(stages, engines, sampling, stats)
        else:
            executor = HostExecutor(stages, engines, sampling, stats)
    except KeyError as error:
        raise PlanMismatch(f"this plan has no engine for its stage {error}") from None
    classes = (executor.decider or executor.encoder).engine
    last = next(spec for spec in classes.outputs if spec.name == (executor.decider or executor.encoder).output)
    if last.shape[-1] != len(manifest.labels):
        raise PlanMismatch(f"this plan names {len(manifest.labels)} labels, but its model has {last.shape[-1]} classes")
    return executor


def _encoder_and_decider(
    stages: Sequence[StageRoles], engines: Mapping[str, Engine]
) -> tuple[StageRunner | None, StageRunner | None]:
    runners = [StageRunner(roles, engines[roles.name]) for roles in stages]
    kinds = [(runner.roles.input_role, runner.roles.output_role) for runner in runners]
    if kinds == [("image", "tokens"), ("window", "logits")]:
        return runners[0], runners[1]
    if kinds == [("window", "logits")]:
        return None, runners[0]
    if kinds == [("image", "logits")]:
        return runners[0], None
    described = "; ".join(f"{stage.name}: {first} -> {last}" for stage, (first, last) in zip(stages, kinds))
    raise PlanMismatch(
        f"this version of vlf_edge runs no plan of these stages ({described}); it runs image -> tokens with window -> "
        "logits, window -> logits, and image -> logits"
    )
