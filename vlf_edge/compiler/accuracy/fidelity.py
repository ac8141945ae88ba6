"""How far one way of running a model (INT8, FP16, PyTorch, an engine) is from its fp32 graphs, on held-out frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...batches import in_batches
from ...errors import ShapeError, WeightsError
from ...video.sampler import segment_centres
from ..calibration.clips import UNLABELLED

# {"frame": images (n, H, W, 3) uint8 -> tokens (n, S, D), "clip": tokens (n, K, S, D) -> logits (n, C)}, float32, or
# {"clip": images (n, K, H, W, 3) uint8 -> logits} for a model of one stage.
Stages = Mapping[str, Callable[[np.ndarray], np.ndarray]]
_DIGITS = 6
_BATCH = 8


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

    frames: (F, H, W, 3) uint8, each encoded once. windows: (n, K) integers, indices into frames. labels: (n,) integers,
    the true class of each window, -1 where it is not known. tokens: (F, S, D) float32, None for a model of one stage.
    logits: (n, C) float32.
    """

    frames: np.ndarray
    windows: np.ndarray
    labels: np.ndarray
    tokens: np.ndarray | None
    logits: np.ndarray

    @classmethod
    def of(cls, stages: Stages, frames: np.ndarray, windows: np.ndarray, labels: np.ndarray | None = None) -> Reference:
        """Runs the fp32 stages. labels: as above; None: not one is known. Raises ShapeError for what does not fit,
        WeightsError for answers that are not finite."""
        labels = np.full(len(windows), UNLABELLED) if labels is None else labels
        _check(stages, frames, windows, labels)
        tokens = encode(stages, frames)
        logits = decide(stages, frames if tokens is None else tokens, windows)
        broken = int((~np.isfinite(logits)).any(axis=1).sum())
        if broken:
            raise WeightsError(
                f"the fp32 graphs give NaN or infinity for {broken} of {len(windows)} windows; expected finite logits "
                "throughout: the weights are broken, train or export them again"
            )
        return cls(frames, windows, labels, tokens, logits)

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
        used, windows = np.unique(self.windows[chosen], return_inverse=True)
        return replace(
            self,
            frames=self.frames[used],
            windows=windows.reshape(len(chosen), -1),
            labels=self.labels[chosen],
            tokens=None if self.tokens is None else self.tokens[used],
            logits=self.logits[chosen],
        )

    def errors(self, stages: Stages) -> dict[str, Any]:
        """Compares another way of running the model, stage by stage and end to end. Plain JSON:

        {"frame": errors of the tokens, "clip": errors of the logits when both get the reference's tokens,
        "end_to_end": errors of the logits when each gets its own}; without a frame stage "end_to_end" alone. The errors
        are those of ``compare``, with "accuracy" at the end where labels are known.
        """
        tokens, report = encode(stages, self.frames), {}
        if tokens is not None:
            report["frame"] = compare(self.tokens, tokens)
            report["clip"] = compare(self.logits, decide(stages, self.tokens, self.windows), logits=True)
        logits = decide(stages, self.frames if tokens is None else tokens, self.windows)
        report["end_to_end"] = compare(self.logits, logits, logits=True)
        if self.labelled:
            sound = report["end_to_end"]["relative"] is not None
            report["end_to_end"]["accuracy"] = self.accuracy(logits) if sound else None
        return report


def encode(stages: Stages, frames: np.ndarray) -> np.ndarray | None:
    """Tokens (F, S, D) of all frames, None for a model of one stage."""
    return in_batches(stages["frame"], frames, _BATCH) if "frame" in stages else None


def decide(stages: Stages, items: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Logits (n, C) of all windows over ``items``: tokens, or images for a model of one stage."""
    return in_batches(lambda part: stages["clip"](items[part]), windows, _BATCH)


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
