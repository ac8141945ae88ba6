"""fp32 graphs and clips -> the ranges of all activations, which int8 graphs are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..fp32_model import Fp32Model, Progress
from ..quantization.convert import Int8
from ..quantization.quantize import activations, quantize
from ..quantization.ranges import Ranges, cached_ranges, collect_ranges, ranges_key
from ..quantization.trained_ranges import trained_ranges
from ..recipe import Recipe
from .windows import Clips, stage_feeds


def calibrate(fp32: Fp32Model, recipe: Recipe, clips: Clips | None, cache: Path, progress: Progress) -> Int8:
    """Finds the ranges, stage after stage: the clip stage is calibrated on what the quantised frame stage gives it.

    Weights that were trained with fake quantisation bring their ranges along; clips then only serve to measure, and
    may be None.
    """
    ranges: dict[str, Ranges] = {}
    portable: dict[str, bytes] = {}
    record = fp32.weights.get("record", {})
    for stage, graph in fp32.graphs.items():
        trained = trained_ranges(record, stage, graph)
        ranges[stage] = trained or _measured_ranges(stage, graph, portable, recipe, clips, cache, progress)
        portable[stage] = quantize(graph, ranges[stage]).onnx
    method = next(iter(ranges.values())).method
    about: dict[str, Any] = {"method": method}
    if method == "percentile":
        about["percentile"] = recipe.percentile
    hygiene: dict[str, Any] = {
        stage: {"samples": found.samples, "clipped": found.clipped} for stage, found in ranges.items()
    }
    if clips is not None:
        about |= {
            "windows": len(clips.windows),
            "frames": len(np.unique(clips.windows)),
            "clips": list(clips.sources),
            "sha256": clips.sha256,
        }
        hygiene["coverage"] = clips.coverage(fp32.clip_labels)
    return Int8(fp32, ranges, about, hygiene)


def _measured_ranges(
    stage: str,
    graph: bytes,
    portable: Mapping[str, bytes],
    recipe: Recipe,
    clips: Clips,
    cache: Path,
    progress: Progress,
) -> Ranges:
    count, feeds = stage_feeds(stage, clips, portable)
    what = f"calibrate {stage} stage"
    progress(what, 0, count)

    def compute() -> Ranges:
        return collect_ranges(
            graph,
            activations(graph),
            feeds,
            recipe.calib_method,
            percentile=recipe.percentile,
            progress=lambda done: progress(what, done, count),
        )

    # The clip stage's data depend on the quantised frame stage too, so its bytes are part of the key.
    data = "".join([clips.sha256, *(hashlib.sha256(graph).hexdigest() for graph in portable.values())])
    data = hashlib.sha256(data.encode()).hexdigest()
    return cached_ranges(cache, ranges_key(graph, data, recipe.calib_method, recipe.percentile), compute)
