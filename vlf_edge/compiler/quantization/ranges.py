"""How large activations get: one pass over calibration data, a histogram for each tensor, three ways to read it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...cache import keep, locked, read_kept
from ...errors import CalibrationError
from .. import graph as graphs
from ..recipe import METHODS

BINS = 2048
# Changes whenever the same graph and clips would give other numbers: part of every cache key.
VERSION = 1
_LEVELS = 128  # magnitudes of a symmetric int8: what entropy() compares with
_MAX_VALUES = 1 << 16  # per tensor and sample of a feed; larger tensors are sampled for the histogram
_MIN_EXPONENT = -64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranges:
    """What was learnt about the activations of one graph, by tensor name.

    thresholds: magnitude that the largest int8 code stands for; 0.0 for a tensor that was zero all along.
    maxima: exact largest magnitude seen. clipped: share of all values beyond the threshold.
    samples: frames or windows seen.
    """

    method: str
    thresholds: dict[str, float]
    maxima: dict[str, float]
    clipped: dict[str, float]
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` is the inverse, to the last bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Ranges:
        """Raises CalibrationError if this is not what ``to_json`` gave."""
        try:
            tables = [{str(k): float(v) for k, v in raw[n].items()} for n in ("thresholds", "maxima", "clipped")]
            ranges = cls(raw["method"], *tables, samples=int(raw["samples"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"these are not saved ranges ({error!r}); calibrate again") from None
        sound = all(math.isfinite(v) and v >= 0 for table in tables for v in table.values())
        if ranges.method not in METHODS or not sound or len({frozenset(table) for table in tables}) != 1:
            raise CalibrationError("these saved ranges contradict themselves; calibrate again")
        return ranges


class Histogram:
    """Magnitudes of one tensor in ``BINS`` equal bins over [0, limit); limit is a power of two above all values.

    A larger value doubles the limit: pairs of bins are added up. Since both limit and bin width are powers of two,
    no value ever sits in another bin than it would have with the final limit from the start.

    Exact zeros are counted apart. Zero is code 0 at every scale and so says nothing about which scale is best, yet
    after a ReLU zeros are most of the values: in the first bin they would outvote everything else.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.maximum = 0.0
        self.zeros = 0

    @property
    def bin_width(self) -> float:
        """Width of one bin, in units of the tensor."""
        return self.limit / BINS

    def update(self, values: np.ndarray, most: int | None = None) -> None:
        """Adds values of any shape, float32. ``maximum`` sees all of them; of more than ``most`` the bins see an even,
        fixed selection. Raises ValueError for NaN and infinity."""
        values = values.ravel()
        if values.size == 0:
            return
        maximum = max(float(values.max()), -float(values.min()))  # NaN, if there is one, comes through
        if not math.isfinite(maximum):
            raise ValueError("NaN or infinity")
        self.maximum = max(self.maximum, maximum)
        self._reach(self.maximum)
        magnitudes = np.abs(values[:: _stride(values.size, most)])
        nonzero = int(np.count_nonzero(magnitudes))
        self.zeros += magnitudes.size - nonzero
        if nonzero:
            self.counts += np.bincount((magnitudes * np.float32(BINS / self.limit)).astype(np.intp), minlength=BINS)
            self.counts[0] -= magnitudes.size - nonzero

    def _reach(self, maximum: float) -> None:
        if maximum == 0 or maximum < self.limit:
            return
        limit = 2.0 ** max(math.frexp(maximum)[1], _MIN_EXPONENT)
        fold = min(int(limit / self.limit), BINS) if self.limit else 1
        folded = self.counts.reshape(-1, fold).sum(axis=1)
        self.counts = np.concatenate([folded, np.zeros(BINS - folded.size, np.int64)])
        self.limit = limit

    def share_beyond(self, threshold: float) -> float:
        """Share of all values, zeros included, larger than ``threshold``; even spread inside a bin is assumed."""
        total = int(self.counts.sum()) + self.zeros
        if total == 0 or threshold >= self.maximum:
            return 0.0
        position = threshold / self.bin_width
        first = int(position)
        within = self.counts[first] * (1 - (position - first))
        return float((within + self.counts[first + 1 :].sum()) / total)


def percentile_threshold(histogram: Histogram, percentile: float) -> float:
    """The magnitude that ``percentile`` per cent of the values other than zero do not pass, to within one bin."""
    total = int(histogram.counts.sum())
    if total == 0 or percentile >= 100:
        return histogram.maximum
    wanted = total * percentile / 100
    below = np.cumsum(histogram.counts)
    index = int(np.searchsorted(below, wanted))
    share = (wanted - (below[index] - histogram.counts[index])) / histogram.counts[index]
    return min((index + float(share)) * histogram.bin_width, histogram.maximum)


def entropy_threshold(histogram: Histogram) -> float:
    """The threshold whose int8 picture of the distribution loses least information: the first i of least divergence
    (see ``divergences``), plus half a bin. After S. Migacz, "8-bit inference with TensorRT", GTC 2017."""
    if not histogram.counts.any():
        return histogram.maximum
    # Rounded: sums taken in another order must not decide a tie.
    best = _LEVELS + int(np.argmin(np.round(divergences(histogram.counts), 12)))
    return min((best + 0.5) * histogram.bin_width, histogram.maximum)


def divergences(counts: np.ndarray) -> np.ndarray:
    """KL(P || Q) for each threshold of i bins, i from 128 to the last filled bin.

    P is the first i bins with all that lies beyond added to the last. Q is the same i bins without what lies beyond,
    averaged over 128 levels: level k holds the bins j with j * 128 // i == k, and empty bins stay empty. Infinite where
    Q gives nothing to a bin that P fills. With running sums of p and p * log p, one i costs 128 steps instead of i.
    """
    counts = counts[: max(np.flatnonzero(counts)[-1] + 1, _LEVELS)].astype(np.float64)
    total = counts.sum()
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    information = np.concatenate([[0.0], np.cumsum(_xlogx(counts / total))])

    sizes = np.arange(_LEVELS, counts.size + 1)  # (I,)
    edges = -(-np.arange(_LEVELS + 1) * sizes[:, None] // _LEVELS)  # (I, 129): first bin of each level
    level_mass = np.diff(mass[edges])  # (I, 128)
    level_bins = np.diff(filled[edges])
    beyond = total - mass[sizes]
    last = counts[sizes - 1]
    level_bins[:, -1] += (last == 0) & (beyond > 0)  # what lies beyond fills the last bin, if it was empty

    p = level_mass / total
    p[:, -1] += beyond / total
    q = np.divide(level_mass, level_bins * mass[sizes][:, None], out=np.zeros_like(p), where=level_mass > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.where(p > 0, p * np.log(q), 0.0).sum(axis=1)
    return information[sizes - 1] + _xlogx((last + beyond) / total) - cross


def collect_ranges(
    onnx_bytes: bytes,
    tensors: Iterable[str],
    feeds: Iterable[Mapping[str, np.ndarray]],
    method: str,
    *,
    percentile: float = 99.99,
    progress: Callable[[int], None] | None = None,
) -> Ranges:
    """Runs the graph over all feeds once and reads a range for each of the ``tensors``.

    feeds: {input name: (n, ...) array}, a batch each; only one is held at a time. A tensor with more than 65536 values
    for each of the n samples is sampled evenly for its histogram; its maximum is always exact.
    method: "minmax" (exact maximum), "percentile" or "entropy". percentile: of the values other than zero, in (0, 100].
    progress: called after each feed with the samples seen so far.

    Raises CalibrationError: unknown method or tensor, no data, NaN or infinity in a tensor.
    """
    if method not in METHODS:
        raise CalibrationError(f"unknown calibration method {method!r}; available: {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise CalibrationError(f"percentile is {percentile}; expected more than 0 and at most 100, such as 99.99")
    histograms = {name: Histogram() for name in sorted(set(tensors))}
    session = graphs.Session(_with_outputs(onnx_bytes, histograms))
    samples = 0
    for feed in feeds:
        count = len(next(iter(feed.values())))
        values = {**feed, **session.run(feed)}
        for name, histogram in histograms.items():
            try:
                histogram.update(values[name], most=_MAX_VALUES * count)
            except ValueError as error:
                raise CalibrationError(
                    f"{error} in tensor {name!r} within samples {samples} to {samples + count - 1}; check the weights"
                ) from None
        del values
        samples += count
        if progress:
            progress(samples)
    if samples == 0:
        raise CalibrationError("no calibration data: not one frame or window was given; name clips with --calib-data")
    thresholds = {name: _threshold(histogram, method, percentile) for name, histogram in histograms.items()}
    return Ranges(
        method=method,
        thresholds=thresholds,
        maxima={name: histogram.maximum for name, histogram in histograms.items()},
        clipped={name: histogram.share_beyond(thresholds[name]) for name, histogram in histograms.items()},
        samples=samples,
    )


def ranges_key(onnx_bytes: bytes, clips_sha256: str, method: str, percentile: float = 99.99) -> str:
    """Hex digest of everything ranges depend on: graph, data, method and this code's version."""
    parts = [hashlib.sha256(onnx_bytes).hexdigest(), clips_sha256, method, VERSION, graphs.ort.__version__]
    if method == "percentile":
        parts.append(float(percentile))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cached_ranges(cache_dir: str | os.PathLike[str], key: str, compute: Callable[[], Ranges]) -> Ranges:
    """The ranges kept under ``key`` (see ``ranges_key``); computes and keeps them if none are sound.

    Of concurrent builds that need the same ones, the first measures and the others wait.
    """
    path = Path(cache_dir) / f"{key}.ranges"
    with locked(path, "measuring these ranges"):
        kept = read_kept(path)
        if kept is not None:
            try:
                return Ranges.from_json(json.loads(kept))
            except (ValueError, RecursionError, CalibrationError) as error:
                logger.warning("%s does not hold ranges, which are measured anew: %s", path, error)
        ranges = compute()
        keep(path, json.dumps(ranges.to_json(), indent=1, sort_keys=True, allow_nan=False).encode())
        return ranges


def _with_outputs(onnx_bytes: bytes, tensors: Iterable[str]) -> bytes:
    """The graph with ``tensors`` as further outputs; its own inputs are left out, the feeds hold them already."""
    model = graphs.load(onnx_bytes)
    graph = model.graph
    inputs, outputs = {value.name for value in graph.input}, {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output}
    missing = sorted(set(tensors) - inputs - made)
    if missing:
        raise CalibrationError(f"the graph has no tensor {missing[0]!r} to calibrate; the name is of another graph")
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in inputs | outputs)
    return model.SerializeToString()


def _threshold(histogram: Histogram, method: str, percentile: float) -> float:
    if method == "percentile":
        return percentile_threshold(histogram, percentile)
    return entropy_threshold(histogram) if method == "entropy" else histogram.maximum


def _stride(size: int, most: int | None) -> int:
    """Step that leaves at most ``most`` of ``size`` values. It shares no factor with the size, hence with no axis of
    the tensor, so that every column, row and channel is visited instead of always the same ones."""
    if most is None or size <= most:
        return 1
    stride = -(-size // most)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


def _xlogx(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1.0))
