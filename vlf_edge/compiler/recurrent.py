"""Stages that carry a state from frame to frame, while a plan is made: as functions of whole windows.

Live, the state comes from the frame before. To calibrate and to compare, a window is all there is: each begins with a
state of zeros, as a stream does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..types import TensorSpec

# What runs a stage once: {input: (n, ...)} -> {output: (n, ...)}.
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
FEATURES = "features"


def states(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """{input that carries a state: the output that it is to be for the next frame}.

    In every graph that is exported the first input is an image or a window, and the first output tokens or logits; all
    others are states, in one order on both sides, but for features.
    """
    following = [spec.name for spec in outputs[1:] if spec.name != FEATURES]
    return dict(zip((spec.name for spec in inputs[1:]), following, strict=True))


class OverWindows:
    """A frame stage with a state: images (n, K, H, W, 3) uint8 -> tokens (n, K, ...) float32."""

    def __init__(self, run: Run, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]):
        self._run, self._given, self._result = run, inputs[0].name, outputs[0].name
        self._carried = states(inputs, outputs)
        self._shapes = {spec.name: spec for spec in inputs[1:]}

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        entries = [results[self._result].astype(np.float32) for _, results in self.steps(clips)]
        return np.stack(entries, axis=1)

    def steps(self, clips: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]]:
        """What goes in and what comes out, frame after frame."""
        feed = {name: np.zeros((len(clips), *spec.shape[1:]), spec.dtype) for name, spec in self._shapes.items()}
        for k in range(clips.shape[1]):
            feed = {self._given: np.ascontiguousarray(clips[:, k]), **feed}
            results = self._run(feed)
            yield feed, results
            feed = {name: results[after] for name, after in self._carried.items()}


def as_function(
    run: Run, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Callable[[np.ndarray], np.ndarray]:
    """A stage as a function of its one input, (n, ...) -> (n, ...) float32, or, with a state, of whole windows."""
    if states(inputs, outputs):
        return OverWindows(run, inputs, outputs)
    given, result = inputs[0], outputs[0]
    return lambda batch: run({given.name: batch.astype(given.dtype, copy=False)})[result.name].astype(np.float32)
