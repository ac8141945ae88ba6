"""The two stages of a plan on a stream: each frame is encoded once, each window decided from tokens that are kept.

Two ways to do it, with the same results: through arrays in the computer's memory, with any engine, or, where both
stages are TensorRT engines, with everything between image and logits on the GPU (backends/tensorrt_streaming.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.gpu_frame import GpuFrame
from ..errors import ShapeError
from ..types import Sampling
from .ring import FeatureRing, Ring
from .stats import Stats


class StreamingModel(ABC):
    """Serves one thread at a time. ``ring`` says which instants are there; ``stats`` gets the times of both stages."""

    ring: Ring

    def __init__(self, sampling: Sampling, stats: Stats):
        self.sampling, self.stats = sampling, stats

    @abstractmethod
    def borrow(self, image: Any) -> GpuFrame:
        """A frame that is on the GPU already, for ``remember``. Raises ShapeError if it cannot be taken as it is."""

    @abstractmethod
    def remember(self, image: np.ndarray | GpuFrame, instants: range, t_s: float) -> None:
        """Encodes one image and keeps its tokens for each grid instant it serves.

        image: (height_px, width_px, 3) uint8 BGR as the frame stage takes it. t_s: when it was taken.
        Raises VlfError.
        """

    @abstractmethod
    def decide(self) -> tuple[np.ndarray, float]:
        """Logits (C,) of the newest window and the time of its first frame. Call only when ``ring.full``."""


class HostStreaming(StreamingModel):
    """Through arrays: any two engines."""

    def __init__(self, frame: Engine, clip: Engine, sampling: Sampling, stats: Stats):
        super().__init__(sampling, stats)
        self._frame, self._clip = frame, clip
        tokens = frame.outputs[0]
        self.ring = FeatureRing(sampling, tokens.shape[1:], tokens.dtype)

    def borrow(self, image: Any) -> GpuFrame:
        raise ShapeError(
            f"this {type(image).__name__} is on a GPU, but the plan runs on {self._frame.backend}: give a NumPy array "
            "(H, W, 3) uint8, or open the plan on a GPU"
        )

    def remember(self, image: np.ndarray | GpuFrame, instants: range, t_s: float) -> None:
        with self.stats.timed("frame_stage"):
            tokens = self._frame.infer({self._frame.inputs[0].name: image[np.newaxis]})[self._frame.outputs[0].name][0]
        for instant in instants:
            self.ring.write(instant, tokens, t_s)

    def decide(self) -> tuple[np.ndarray, float]:
        window, t_start_s, _ = self.ring.window()
        with self.stats.timed("clip_stage"):
            logits = self._clip.infer({self._clip.inputs[0].name: window})[self._clip.outputs[0].name][0]
        return logits, t_start_s


def open_streaming(engines: Mapping[str, Engine], sampling: Sampling, stats: Stats) -> StreamingModel:
    """The best way to run these engines, {"frame": ..., "clip": ...}, on a stream. Raises PlanMismatch, VlfError."""
    frame, clip = engines["frame"], engines["clip"]
    if frame.on_gpu and clip.on_gpu:
        from .tensorrt_streaming import TensorRTStreaming

        return TensorRTStreaming(frame, clip, sampling, stats)
    return HostStreaming(frame, clip, sampling, stats)
