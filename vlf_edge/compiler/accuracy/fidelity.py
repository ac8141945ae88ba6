"""How far one way of running a model (INT8, FP16, PyTorch, an engine) is from its fp32 graphs, on held-out frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...batches import in_batches
from ...errors import ShapeError, WeightsError
from ...video.sampler import segment_centres
from ..calibration.clips import UNLABELLED
from ..recurrent import OverWindows

# {"frame": images (n, H, W, 3) uint8 -> tokens (n, S, D), "clip": tokens (n, K, S, D) -> logits (n, C)}, float32, or
# {"clip": images (n, K, H, W, 3) uint8 -> logits} for a model of one stage. A frame stage with a state is OverWindows.
Stages = Mapping[str, Callable[[np.ndarray], np.ndarray]]
_DIGITS = 6
_BATCH = 8


class Encoded(NamedTuple):
    """entries: (E, ...), tokens float32 or images uint8. windows: (n, K) integers, indices into them."""

    entries: np.ndarray
    windows: np.ndarray


def compare(reference: np.ndarray, candidate: np.ndarray, *, logits: bool = False) -> dict[str, float | None]:
    """Errors of ``candidate`` against ``reference``: equal shapes (..., D), any float type.

    max_abs: largest absolute difference. relative: norm of the difference over norm of the reference.
    cosine_min, cosine_mean: over the rows, vectors of the last axis. nonfinite: share of NaN and infinity in the
    candidate; if there are any, all errors are None: no number would be honest, and JSON has no NaN.
    With ``logits``, top1_agreement: share of rows whose largest entry is at the same place.
    Rounded to 6 significant digits. Raises ShapeError if the shapes differ or are empty.
    """
    if reference.shape != candidate.shape or reference.size == 0:
        raise ShapeError(
            f"cannot compare outputs of shapes {reference.shape} and {candidate.shape}; expected equal ones, not empty"
        )
    a = reference.astype(np.float64).reshape(-1, reference.shape[-1])
    b = candidate.astype(np.float64).reshape(a.shape)
    nonfinite = float(1 - np.isfinite(b).mean())
    names = ["max_abs", "relative", "cosine_min", "cosine_mean"] + ["top1_agreement"] * logits
    if nonfinite or not np.isfinite(a).all():
        return {**dict.fromkeys(names), "nonfinite": _rounded(nonfinite)}
    cosine = _cosine(a, b)
    values = [np.abs(a - b).max(), _ratio(np.linalg.norm(a - b), np.linalg.norm(a)), cosine.min(), cosine.mean()]
    if logits:
        values.append((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    return {**{name: _rounded(value) for name, value in zip(names, values)}, "nonfinite": 0.0}


@dataclass(frozen=True)
class Reference:
    """What the fp32 graphs answer: what every other way of running the model is compared with.

    frames: (F, H, W, 3) uint8. windows: (n, K) integers, indices into frames. labels: (n,) integers, the true class of
    each window, -1 where it is not known. encoded: what the frame stage makes of them. logits: (n, C) float32.
    """

    frames: np.ndarray
    windows: np.ndarray
    labels: np.ndarray
    encoded: Encoded
    logits: np.ndarray

    @classmethod
    def of(cls, stages: Stages, frames: np.ndarray, windows: np.ndarray, labels: np.ndarray | None = None) -> Reference:
        """Runs the fp32 stages. labels: as above; None: not one is known. Raises ShapeError for what does not fit,
        WeightsError for answers that are not finite."""
        labels = np.full(len(windows), UNLABELLED) if labels is None else labels
        _check(stages, frames, windows, labels)
        encoded = encode(stages, frames, windows)
        logits = decide(stages, encoded)
        broken = int((~np.isfinite(logits)).any(axis=1).sum())
        if broken:
            raise WeightsError(
                f"the fp32 graphs give NaN or infinity for {broken} of {len(windows)} windows; expected finite logits "
                "throughout: the weights are broken, train or export them again"
            )
        return cls(frames, windows, labels, encoded, logits)

    @property
    def labelled(self) -> int:
        """How many windows have a known class."""
        return int((self.labels != UNLABELLED).sum())

    def accuracy(self, logits: np.ndarray | None = None) -> float | None:
        """Share of labelled windows whose largest logit (n, C) is the true class; by default the reference's own."""
        known = self.labels != UNLABELLED
        if not known.any():
            return None
        best = (self.logits if logits is None else logits).argmax(axis=1)
        return _rounded((best == self.labels)[known].mean())

    def only(self, count: int) -> Reference:
        """The same for at most ``count`` of the windows, spread evenly over them, and the frames these use."""
        if len(self.windows) <= count:
            return self
        chosen = segment_centres(len(self.windows), count)
        frames, windows = _used(self.frames, self.windows[chosen])
        return replace(
            self,
            frames=frames,
            windows=windows,
            labels=self.labels[chosen],
            encoded=Encoded(*_used(self.encoded.entries, self.encoded.windows[chosen])),
            logits=self.logits[chosen],
        )

    def errors(self, stages: Stages) -> dict[str, Any]:
        """Compares another way of running the model, stage by stage and end to end. Plain JSON:

        {"frame": errors of the tokens, "clip": errors of the logits when both get the reference's tokens,
        "end_to_end": errors of the logits when each gets its own}; without a frame stage "end_to_end" alone. The errors
        are those of ``compare``, with "accuracy" at the end where labels are known.
        """
        encoded, report = encode(stages, self.frames, self.windows), {}
        if "frame" in stages:
            report["frame"] = compare(self.encoded.entries, encoded.entries)
            report["clip"] = compare(self.logits, decide(stages, self.encoded), logits=True)
        logits = decide(stages, encoded)
        report["end_to_end"] = compare(self.logits, logits, logits=True)
        if self.labelled:
            sound = report["end_to_end"]["relative"] is not None
            report["end_to_end"]["accuracy"] = self.accuracy(logits) if sound else None
        return report


def encode(stages: Stages, frames: np.ndarray, windows: np.ndarray) -> Encoded:
    """What the frame stage makes of the frames: each once, or, where it carries a state, of each window by itself; the
    images themselves for a model of one stage."""
    frame = stages.get("frame")
    if frame is None:
        return Encoded(frames, windows)
    if isinstance(frame, OverWindows):
        entries = in_batches(lambda part: frame(frames[part]), windows, _BATCH)  # (n, K, ...)
        return Encoded(entries.reshape(-1, *entries.shape[2:]), np.arange(windows.size).reshape(windows.shape))
    return Encoded(in_batches(frame, frames, _BATCH), windows)


def decide(stages: Stages, encoded: Encoded) -> np.ndarray:
    """Logits (n, C) of all windows."""
    # Windows of images are large, and a whole network runs on them.
    batch = 1 if encoded.entries.dtype == np.uint8 else _BATCH
    return in_batches(lambda part: stages["clip"](encoded.entries[part]), encoded.windows, batch)


def _used(items: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items that the windows use, and the windows as indices into those."""
    used, places = np.unique(windows, return_inverse=True)
    return items[used], places.reshape(windows.shape)


def _check(stages: Stages, frames: np.ndarray, windows: np.ndarray, labels: np.ndarray) -> None:
    if not {"clip"} <= set(stages) <= {"frame", "clip"}:
        raise ShapeError(f"cannot measure stages {', '.join(sorted(stages))}; expected clip, or frame and clip")
    if frames.ndim != 4 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ShapeError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3)")
    if windows.ndim != 2 or windows.size == 0 or not np.issubdtype(windows.dtype, np.integer):
        raise ShapeError(f"windows are {windows.dtype} {windows.shape}; expected integers (n, K)")
    if windows.min() < 0 or windows.max() >= len(frames):
        raise ShapeError(f"windows name frames {windows.min()} to {windows.max()}, but there are {len(frames)} frames")
    if labels.shape != windows.shape[:1]:
        raise ShapeError(f"got {len(labels)} labels for {len(windows)} windows; expected one each")


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows of two (R, D) arrays; two zero rows agree, a zero row with any other does not."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms))


def _ratio(difference: float, size: float) -> float | None:
    if size == 0:
        return None if difference else 0.0
    return difference / size


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
