"""The small values that cross borders: frozen dataclasses over NumPy arrays, shared by compiler and runtime.

Axis names used in every docstring: N batch, K frames of a window, H height, W width, S tokens of one frame,
D channels of a token, C classes. Images are ``(H, W, 3) uint8`` in BGR order unless a docstring says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import VlfError

MAIN = "main"
"""The stream of a source that is given without a name."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    name: as in the ONNX graph. dtype: NumPy name ("uint8", "float16", "float32", ...).
    shape: sizes; a string is a dynamic axis ("N").
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}({', '.join(map(str, self.shape))})"

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape with ``batch`` for every dynamic axis."""
        return tuple(batch if isinstance(size, str) else size for size in self.shape)


@dataclass(frozen=True)
class Preprocess:
    """What happens to a camera image before the frame stage: resize so that the short side is ``short_side_px``,
    then cut ``height_px`` x ``width_px`` from the centre. Colour order, mean and std live inside the ONNX graph.
    Raises VlfError for sizes no image has."""

    height_px: int
    width_px: int
    short_side_px: int

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px", "short_side_px"):
            _check(name, getattr(self, name), int, 1, 8192)


@dataclass(frozen=True)
class Sampling:
    """Which instants of a stream make a window: ``frames`` (K) instants ``step_s`` apart.

    phases (P): interleaved grids, each shifted by ``step_s / P``, for P times as many decisions a second from the
    same frame encoder (ring of K*P entries, every P-th is a window). Raises VlfError for values that make no window.
    """

    frames: int
    span_s: float
    phases: int = 1

    def __post_init__(self) -> None:
        _check("frames", self.frames, int, 1, 256)
        _check("span_s", self.span_s, (int, float), 1e-3, 3600)
        _check("phases", self.phases, int, 1, 64)

    @property
    def step_s(self) -> float:
        """Seconds between two neighbouring frames of one window."""
        return self.span_s / self.frames

    @property
    def grid_s(self) -> float:
        """Seconds between two neighbouring instants of the interleaved grid: one decision each."""
        return self.step_s / self.phases


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    image: (H, W, 3) uint8 BGR. t_s: the instant it was taken, on the source's own clock, in seconds.
    seq: its number in the source, from 0; numbers of dropped frames are missing.
    captured_s: ``time.monotonic()`` when this process got it, for the age of a decision.
    begins: True if nothing before it belongs with it, as at the beginning of the next file of a folder.
    stream: name of the stream it is a frame of.
    """

    image: np.ndarray
    t_s: float
    seq: int
    captured_s: float
    begins: bool = False
    stream: str = MAIN


@dataclass(frozen=True)
class Prediction:
    """A decision, or why there is none.

    state: "warming" (window not full yet), "ok", "gap" (frames were missing, window restarted), "failed" (the model's
    answer was not a number, window restarted), "stale" (the decision came later than it may), "no_signal" (the camera
    gives no frames), "ended" (the last word on each stream of a run that has several); there is no frame with these
    two, and ``seq`` is -1. Only "ok" carries a label.
    stream: name of the camera, file or tracked person it is about.
    label, score: best class and its softmax probability, None unless ok. A plan that was enrolled, or calibrated for
    it, has one class more, the last: "unknown", for what is none of the others. It is a label like them, with its
    probability in score, scores and topk.
    scores: (C,) float32 softmax over the classes, None unless ok. logits: (C,) float32, None unless ok; of such a plan
    those of its head.
    topk: ((label, score), ...), best first, empty unless ok.
    t_start_s, t_end_s: instants of the first and the last frame seen, on the source's clock; of "no_signal", those of
    the newest frame (0 before the first) and of now.
    age_ms: from capture of the newest frame until the decision was handed over. seq: number of that frame.
    dropped: frames that were due and lost since the stream's previous prediction, since the machine was too slow.
    random_weights: True if the plan was built from random weights and the label means nothing.
    """

    state: str
    t_start_s: float
    t_end_s: float
    seq: int
    age_ms: float
    label: str | None = None
    score: float | None = None
    scores: np.ndarray | None = field(default=None, repr=False, compare=False)
    logits: np.ndarray | None = field(default=None, repr=False, compare=False)
    topk: tuple[tuple[str, float], ...] = ()
    dropped: int = 0
    random_weights: bool = False
    stream: str = MAIN


@dataclass(frozen=True)
class Event:
    """An action that lasts, made from decisions: given once when it is sure, and once more when it has ended.

    stream: where. label: what. id: number of the event, counted up by whoever made it; both times the same.
    t_start_s, t_end_s: when the action began and ended (not when that was decided), on the source's clock, in seconds;
    t_end_s is None while it goes on. peak_score: the highest smoothed probability so far.
    """

    stream: str
    label: str
    t_start_s: float
    t_end_s: float | None
    peak_score: float
    id: int


def _check(name: str, value: Any, kind: type | tuple[type, ...], least: float, most: float) -> None:
    """Values come from files of strangers too: their type is not to be taken for granted."""
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
        what = "whole number" if kind is int else "number"
        raise VlfError(f"{name} is {value!r}, expected a {what} from {least:g} to {most:g}")
