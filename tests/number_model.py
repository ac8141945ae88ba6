"""A model that reads the numbers in the pictures of ``rtsp_server``: it says of every decision which frames it saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rtsp_server import frame_number

from vlf_edge import Manifest, Preprocess, Sampling, TensorSpec
from vlf_edge.backends.fake import FakeEngine
from vlf_edge.manifest import Graph
from vlf_edge.runtime.recognizer import Recognizer

ERA = 2000
"""Every start of a server counts from the next multiple on, so that a number tells which start its frame is of."""
_LABELS = ("a", "b", "c", "d", "e")


def era_of(number: int) -> int:
    """The start of the server that a frame is of."""
    return number // ERA


def mixed(window: Sequence[int]) -> bool:
    """Whether the frames of a window are of more than one start, or not in order."""
    return len({era_of(number) for number in window}) > 1 or list(window) != sorted(set(window))


def number_recognizer(frames: int = 4, span_s: float = 0.4) -> tuple[Recognizer, list[tuple[int, ...]]]:
    """The recogniser, and the list to which it appends the K numbers of each window that it decides about."""
    image, tokens = TensorSpec("image", "uint8", ("N", 64, 64, 3)), TensorSpec("tokens", "float32", ("N", 1, 1))
    window = TensorSpec("tokens", "float32", ("N", frames, 1, 1))
    logits = TensorSpec("logits", "float32", ("N", len(_LABELS)))
    manifest = Manifest(
        model={"name": "numbers"},
        labels=_LABELS,
        preprocess=Preprocess(64, 64, 64),
        sampling=Sampling(frames, span_s),
        precision="fp32",
        stages=("frame", "clip"),
        graphs=tuple(
            Graph(stage, kind, f"{stage}.fp32.onnx", (given,), (made,))
            for stage, given, made in (("frame", image, tokens), ("clip", window, logits))
            for kind in ("fp32", "portable", "typed")
        ),
        weights={"origin": "file", "sha256": "0" * 64},
    )
    windows: list[tuple[int, ...]] = []
    engines = {"frame": _Reader((image,), (tokens,)), "clip": _Notes((window,), (logits,), windows)}
    return Recognizer(manifest, engines), windows


class _Reader(FakeEngine):
    def _one(self, sample: np.ndarray, spec: TensorSpec) -> np.ndarray:
        return np.full(spec.shape[1:], frame_number(sample), np.float32)


class _Notes(FakeEngine):
    def __init__(self, inputs, outputs, windows: list[tuple[int, ...]]):
        super().__init__(inputs, outputs)
        self._windows = windows

    def _one(self, sample: np.ndarray, spec: TensorSpec) -> np.ndarray:
        self._windows.append(tuple(int(number) for number in sample.reshape(-1)))
        return np.arange(spec.shape[1], dtype=np.float32)
