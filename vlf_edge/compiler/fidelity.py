"""How far a candidate graph (INT8, FP16) is from the fp32 one, on frames that calibration has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import graph as graphs

_DIGITS = 6


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


def measure(
    reference: Mapping[str, bytes],
    candidate: Mapping[str, bytes],
    frames: np.ndarray,
    windows: np.ndarray,
    *,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Runs both sets of graphs with ONNX Runtime and compares them stage by stage and end to end.

    reference, candidate: {"frame": onnx bytes, "clip": onnx bytes}, or {"clip": onnx bytes} for a model of one stage.
    frames: (F, H, W, 3) uint8, each encoded once. windows: (n, K) integers, indices into frames.
    batch: frames or windows run at a time. progress: called with (batches done, batches in all).

    Returns plain JSON: {"frames": F, "windows": n, "frame": errors of the tokens, "clip": errors of the logits when
    both get the reference's tokens, "end_to_end": errors of the logits when each gets its own}; without a frame stage
    "end_to_end" alone. The errors are those of ``compare``. Raises ShapeError for arrays that do not fit.
    """
    _check(reference, candidate, frames, windows)
    everything = np.arange(len(frames))
    jobs = [len(everything)] * 2 + [len(windows)] * 3 if "frame" in reference else [len(windows)] * 2
    total, done = sum(-(-count // batch) for count in jobs), 0
    if progress:
        progress(0, total)

    def run(onnx_bytes: bytes, items: np.ndarray, indices: np.ndarray) -> np.ndarray:
        nonlocal done
        session, parts = graphs.Session(onnx_bytes), []
        for start in range(0, len(indices), batch):
            feed = {session.inputs[0]: items[indices[start : start + batch]]}
            parts.append(session.run(feed)[session.outputs[0]].astype(np.float32))
            done += 1
            if progress:
                progress(done, total)
        return np.concatenate(parts)

    report: dict[str, Any] = {"frames": len(frames), "windows": len(windows)}
    seen = seen_by_candidate = frames
    if "frame" in reference:
        seen, seen_by_candidate = (run(stages["frame"], frames, everything) for stages in (reference, candidate))
        report["frame"] = compare(seen, seen_by_candidate)
    logits = run(reference["clip"], seen, windows)
    if "frame" in reference:
        report["clip"] = compare(logits, run(candidate["clip"], seen, windows), logits=True)
    report["end_to_end"] = compare(logits, run(candidate["clip"], seen_by_candidate, windows), logits=True)
    return report


def _check(
    reference: Mapping[str, bytes], candidate: Mapping[str, bytes], frames: np.ndarray, windows: np.ndarray
) -> None:
    if set(reference) != set(candidate) or not {"clip"} <= set(reference) <= {"frame", "clip"}:
        got = f"{', '.join(sorted(reference))} and {', '.join(sorted(candidate))}"
        raise ShapeError(f"cannot compare graphs of stages {got}; expected clip, or frame and clip, on both sides")
    if frames.ndim != 4 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ShapeError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3)")
    if windows.ndim != 2 or windows.size == 0 or not np.issubdtype(windows.dtype, np.integer):
        raise ShapeError(f"windows are {windows.dtype} {windows.shape}; expected integers (n, K)")
    if windows.min() < 0 or windows.max() >= len(frames):
        raise ShapeError(f"windows name frames {windows.min()} to {windows.max()}, but there are {len(frames)} frames")


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
