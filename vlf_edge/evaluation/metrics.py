"""What logits are worth, given the truth. NumPy alone.

Every function takes ``logits`` (n, C), any float type, raw: no softmax; and ``truth`` (n,) whole numbers 0..C-1, with
n >= 1. They raise VlfError for NaN or infinite logits (a number taken from those would lie) and ShapeError for arrays
that do not fit.
"""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError, VlfError

CALIBRATION_BINS = 15


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(n, C) -> natural logarithms of the class probabilities, (n, C) float64."""
    logits = _checked(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def top_k(logits: np.ndarray, truth: np.ndarray, k: int = 1) -> float:
    """Share of rows whose true class is among the k best. Of equal logits the class of the lower number is better."""
    logits, truth = _checked(logits), _checked_truth(logits, truth)
    if k < 1:
        raise ShapeError(f"top-k asks for k = {k}, expected 1 or more")
    own = logits[np.arange(len(truth)), truth][:, np.newaxis]
    before = np.arange(logits.shape[1]) < truth[:, np.newaxis]
    rank = (logits > own).sum(axis=1) + ((logits == own) & before).sum(axis=1)
    return float((rank < k).mean())


def confusion_matrix(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(C, C) int64: rows are the truth, columns what was decided, entries numbers of clips."""
    logits = _checked(logits)
    truth, classes = _checked_truth(logits, truth), logits.shape[1]
    pairs = truth * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_recall(confusion: np.ndarray) -> np.ndarray:
    """Confusion matrix (C, C) -> (C,) float64: share of each true class that was decided so; NaN for a class without
    clips."""
    counts = confusion.sum(axis=1)
    return np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)


def calibration_error(logits: np.ndarray, truth: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: |accuracy - mean confidence| in ``bins`` bins of equal width, open below and closed
    above, averaged with the share of rows in each (Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
    equation 3). Confidence is the softmax probability of the decided class."""
    logits = _checked(logits)
    truth = _checked_truth(logits, truth)
    confidence = np.exp(log_softmax(logits).max(axis=1))
    right = logits.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # Each bin's size cancels: (size / n) * |sum(right - confidence) / size|.
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that one of ``positive`` (n,) exceeds one of ``negative`` (m,), ties by half: the area under the
    receiver operating characteristic. Raises ShapeError if either is empty."""
    if 0 in (len(positive), len(negative)):
        raise ShapeError(f"AUROC of {len(positive)} and {len(negative)} values, expected one of each at least")
    ordered = np.sort(negative)
    below, not_above = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + not_above).mean() / 2 / len(negative))


def agreement(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Share of rows of two (n, C) logits that decide for the same class."""
    reference, candidate = _checked_pair(reference, candidate)
    return float((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean())


def divergence(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence KL(reference || candidate) of the rows' softmax, in nats; 0 where equal."""
    reference, candidate = _checked_pair(reference, candidate)
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    # Rounding may leave a hair below zero, which no divergence is.
    return max(0.0, float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()))


def max_abs(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Largest absolute difference of two (n, C) logits."""
    reference, candidate = _checked_pair(reference, candidate)
    return float(np.abs(reference - candidate).max())


def _checked(logits: np.ndarray) -> np.ndarray:
    """The logits as (n, C) float64."""
    if logits.ndim != 2 or 0 in logits.shape:
        raise ShapeError(f"logits are {logits.dtype}{logits.shape}, expected (n, C) with at least one row and class")
    bad = int((~np.isfinite(logits).all(axis=1)).sum())
    if bad:
        raise VlfError(
            f"the logits of {bad} of {len(logits)} clips hold NaN or infinity: no metric of them would mean anything; "
            "see where they come from with vlf-edge inspect PLAN, or build the plan again with --precision fp32"
        )
    return logits.astype(np.float64)


def _checked_truth(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    truth = np.asarray(truth)
    if truth.shape != logits.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        raise ShapeError(f"truth is {truth.dtype}{truth.shape}, expected whole numbers ({len(logits)},)")
    if truth.min() < 0 or truth.max() >= logits.shape[1]:
        raise ShapeError(f"truth names classes {truth.min()} to {truth.max()}, but there are {logits.shape[1]}")
    return truth.astype(np.int64)


def _checked_pair(reference: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if reference.shape != candidate.shape:
        raise ShapeError(f"cannot compare logits {reference.shape} with {candidate.shape}; expected equal shapes")
    return _checked(reference), _checked(candidate)
