"""Ranges that were learned: what quantisation-aware training left in the weights' record, as ranges of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import WeightsError
from .quantize import quantizable_nodes
from .ranges import Ranges

METHOD = "trained"
_CODES = 127  # times the scale: the magnitude that the largest code stands for
_LARGEST_SCALE = 65504.0  # of float16
_FIX = "these weights and their training record do not belong together: train them again with --qat, or use others"


def trained_ranges(record: Mapping[str, Any], stage: str, onnx_bytes: bytes) -> Ranges | None:
    """The ranges that a stage's fp32 graph was trained with, for ``quantize``; None if it was trained without.

    record: the training record of the weights; its entry "qat" holds {"scales": {stage: {weight: scale}}}, the scale of
    what the layer with that weight reads. quantize() makes exactly these scales of the ranges. Nothing was measured:
    maxima and clipped are empty, samples is 0.
    Raises WeightsError if the record is damaged or of another model.
    """
    if not record.get("qat"):
        return None
    scales = _checked_scales(record["qat"], stage)
    layers = quantizable_nodes(onnx_bytes)
    differ = sorted({layer.weight for layer in layers} ^ set(scales))
    if differ:
        raise WeightsError(f"{len(differ)} layers of the {stage} stage differ, such as {differ[0]!r}: {_FIX}")
    thresholds: dict[str, float] = {}
    for layer in layers:
        threshold = _CODES * scales[layer.weight]
        if thresholds.setdefault(layer.activation, threshold) != threshold:
            raise WeightsError(f"{layer.activation!r} in the {stage} stage was trained with two scales: {_FIX}")
    return Ranges(method=METHOD, thresholds=thresholds, maxima={}, clipped={}, samples=0)


def _checked_scales(qat: Any, stage: str) -> dict[str, float]:
    """Weights files come from strangers."""
    scales = qat.get("scales") if isinstance(qat, dict) else None
    scales = scales.get(stage) if isinstance(scales, dict) else None
    if not isinstance(scales, dict):
        raise WeightsError(f"the training record has no scales for the {stage} stage: {_FIX}")
    for weight, scale in scales.items():
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not number or not 0 <= scale <= _LARGEST_SCALE:  # refuses NaN too
            raise WeightsError(f"the training record gives {weight!r} the scale {scale!r}: {_FIX}")
    return scales
