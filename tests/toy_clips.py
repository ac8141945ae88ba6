"""Labelled clips for training tests: a bright square on noise that moves left, right, up or down."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from toy_model import TOY, build_toy

from vlf_edge.datasets import Clip, ClipDataset, Sample
from vlf_edge.errors import SourceError
from vlf_edge.models.weights import save_weights

LABELS = ("left", "right", "up", "down")
_WAYS = ((-9, 0), (9, 0), (0, -9), (0, 9))


def draw(label: int, rng: np.random.Generator, count: int = TOY.frames) -> np.ndarray:
    """(count, 32, 64, 3) uint8 BGR."""
    frames = rng.integers(0, 40, (count, TOY.height_px, TOY.width_px, 3), np.uint8)
    start = np.array([rng.uniform(24, 40), rng.uniform(14, 18)])
    for i, frame in enumerate(frames):
        x, y = (start + np.multiply(_WAYS[label], 2 * i / (count - 1) - 1)).astype(int)
        frame[max(0, y - 5) : y + 5, max(0, x - 5) : x + 5] = 230
    return frames


class Squares(ClipDataset):
    """Drawn when asked for. broken: indices that cannot be read. ``progress`` is what the trainer said last."""

    def __init__(self, count: int = 32, broken: tuple[int, ...] = (), labels: tuple[str, ...] = LABELS):
        self.name, self.labels, self.targets, self.span_s = "squares", labels, ("x", "y"), 1.0
        self.clips = [Clip(f"square {i}", i % 4) for i in range(count)]
        self.broken, self.progress = frozenset(broken), 0.0

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        if index in self.broken:
            raise SourceError(f"square {index} is broken")
        label = index % 4
        frames = draw(label, rng or np.random.default_rng((7, index)))
        targets = np.tile(np.float32(_WAYS[label]) / 9, (len(frames) - 1, 1))
        return Sample(frames, label, targets)


def write_clips(folder: Path, per_class: int = 5) -> Path:
    """class/clip.avi, one second each."""
    for label, name in enumerate(LABELS):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            size = (TOY.width_px, TOY.height_px)
            writer = cv2.VideoWriter(str(folder / name / f"{i}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
            for frame in draw(label, np.random.default_rng((label, i)), 10):
                writer.write(frame)
            writer.release()
    return folder


def write_weights(path: Path, labels: tuple[str, ...] = LABELS) -> str:
    """A toy model to start from: the sizes of the package's own models are too large for tests."""
    save_weights(path, build_toy(), labels, {})
    return str(path)
