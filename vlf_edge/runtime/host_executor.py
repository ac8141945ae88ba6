"""A plan's execution through arrays in the computer's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..backends.engine import Engine
from ..manifest import StageRoles
from ..types import Sampling
from .executor import Executor
from .stats import Stats
from .stream import DueFrame, Stream


class HostExecutor(Executor):
    """Through arrays in the computer's memory, with engines of any backend."""

    def __init__(
        self,
        stages: Sequence[StageRoles],
        engines: Mapping[str, Engine],
        sampling: Sampling,
        stats: Stats,
        answer: Sequence[str] = ("logits",),
    ):
        super().__init__(stages, engines, sampling, stats, answer)
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
        for number, answer in zip(full, self._decide(windows) if self.decider else entries[full]):
            decisions[number] = answer
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
            following = encoder.next_state(results)
            for number, frame in enumerate(due):
                self._states[frame.stream] = {name: values[number] for name, values in following.items()}
        return encoder.answer(results)

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
            return self.decider.answer(self.decider.run(stacked))

    def _kept(self, stream: Stream, entry: np.ndarray) -> np.ndarray | None:
        """(P, 2K, ...): the entries of a stream's ring."""
        if self.decider is None:
            return None
        kept = self._entries.get(stream)
        if kept is None:
            kept = self._entries[stream] = np.zeros((*stream.ring.shape, *entry.shape), entry.dtype)
        return kept
