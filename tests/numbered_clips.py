"""Files that data set tests read: videos whose every frame says which one it is, empty files, texts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

LEVEL_STEP = 6


def write_clip(path: Path, frames: int = 12, fps: float = 10.0, width: int = 64, height: int = 48) -> Path:
    """Motion JPEG; frame i is grey of level 6 * (i modulo 42): see ``frame_numbers``. Any name will do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Writing, OpenCV goes by the name; reading, it looks inside.
    real = path if path.suffix == ".avi" else path.with_name(path.name + ".avi")
    writer = cv2.VideoWriter(str(real), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((height, width, 3), LEVEL_STEP * (i % 42), np.uint8))
    writer.release()
    return real.rename(path)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """(K, H, W, 3) frames of such a clip -> their numbers, modulo 42."""
    return [round(frame.mean() / LEVEL_STEP) for frame in frames]


def touch(root: Path, *names: str) -> Path:
    """Files that only have to be there."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
