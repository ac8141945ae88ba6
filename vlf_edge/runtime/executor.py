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
from ..manifest import StageRoles
from ..types import Sampling
from .stats import Stats
from .stream import DueFrame, Stream

# Frames of one step: more would only make the first of them wait.
MAX_BATCH = 32


class Executor(ABC):
    """Serves one thread at a time. Engines stay the caller's to close.

    answer: roles of the outputs of the last stage that are wanted, side by side, such as ("features", "logits").
    max_batch: most frames of one ``step``. stats: gets the times of the stages, for a whole batch each.
    """

    max_batch = MAX_BATCH

    def __init__(
        self,
        stages: Sequence[StageRoles],
        engines: Mapping[str, Engine],
        sampling: Sampling,
        stats: Stats,
        answer: Sequence[str] = ("logits",),
    ):
        self.sampling, self.stats = sampling, stats
        self.encoder, self.decider = _encoder_and_decider(stages, engines, answer)
        if self.encoder is not None and self.encoder.roles.state and sampling.phases > 1:
            raise PlanMismatch(
                f"this plan's model carries a state from frame to frame, so its grids cannot interleave: phases is "
                f"{sampling.phases}, expected 1"
            )

    @abstractmethod
    def step(self, due: Sequence[DueFrame]) -> list[np.ndarray | None]:
        """Encodes frames that are due as one batch and decides all windows that they complete as another.

        due: at most ``max_batch``, each of another stream, whose ring they continue. Returns the answer to each frame's
        window, (C,) or as wide as what was asked for, None where it is not full yet. Raises VlfError; the rings of
        these streams are then unsafe.
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
        """Whole clips, independent of any stream: (n, K, H, W, 3) uint8 BGR, prepared -> answers (n, C)."""
        entries = clips if self.encoder is None else self._encode_clips(clips)
        if self.decider is None:
            return entries[:, -1]
        with self.stats.timed(self.decider.timed_as):
            return self.decider.answer(self.decider.run(entries))

    def _encode_clips(self, clips: np.ndarray) -> np.ndarray:
        encoder, (n, frames) = self.encoder, clips.shape[:2]
        if not encoder.roles.state:
            with self.stats.timed(encoder.timed_as):
                entries = encoder.answer(encoder.run(clips.reshape(n * frames, *clips.shape[2:])))
            return entries.reshape(n, frames, *entries.shape[1:])
        state, entries = encoder.first_state(n), []
        for frame in range(frames):
            with self.stats.timed(encoder.timed_as):
                results = encoder.run(np.ascontiguousarray(clips[:, frame]), state)
            state = encoder.next_state(results)
            entries.append(encoder.answer(results))
        return np.stack(entries, axis=1)


class StageRunner:
    """A stage with its engine: the main input and output by what they are for, and the state carried beside them.

    answer: roles of the outputs that are wanted of the last stage, side by side. outputs: their names; of an earlier
    stage the main output alone. Raises PlanMismatch if the stage lacks one.
    """

    def __init__(self, roles: StageRoles, engine: Engine, answer: Sequence[str]):
        self.roles, self.engine = roles, engine
        self.timed_as = f"{roles.name}_stage"
        self.input, self.output = roles.main_input, roles.main_output
        self.outputs: tuple[str, ...] = (self.output,)
        if roles.output_role == "logits":
            self.outputs = tuple(map(self._output_of, answer))
        self._states = [spec for spec in engine.inputs if spec.name in roles.state]

    def run(self, items: np.ndarray, state: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Every output for n items (n, ...), in batches as large as the engine takes. state: by input, (n, ...)."""
        return self.engine.infer_all({self.input: items, **(state or {})})

    def answer(self, results: Mapping[str, np.ndarray]) -> np.ndarray:
        """What is wanted of a run's results: (n, ...) of one output, (n, width) of several."""
        if len(self.outputs) == 1:
            return results[self.outputs[0]]
        return np.concatenate([results[name] for name in self.outputs], axis=1)

    def _output_of(self, role: str) -> str:
        name = self.roles.output_of(role)
        if name is None:
            raise PlanMismatch(f"stage {self.roles.name!r} of this plan gives no {role}")
        return name

    def first_state(self, n: int) -> dict[str, np.ndarray]:
        """Zeros, as before the first frame: {input: (n, ...)}."""
        return {spec.name: np.zeros((n, *spec.shape[1:]), spec.dtype) for spec in self._states}

    def next_state(self, results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the next run takes, out of what this one gave."""
        return {name: results[self.roles.state[name]] for name in self.roles.state}


def _encoder_and_decider(
    stages: Sequence[StageRoles], engines: Mapping[str, Engine], answer: Sequence[str]
) -> tuple[StageRunner | None, StageRunner | None]:
    runners = [StageRunner(roles, engines[roles.name], answer) for roles in stages]
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
