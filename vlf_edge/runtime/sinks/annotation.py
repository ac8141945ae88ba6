"""A decision written onto its frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...opencv import load_cv2
from ...printable import printable
from ...types import Prediction

Colour = tuple[int, int, int]  # blue, green, red


def annotate(image: np.ndarray, prediction: Prediction | None) -> np.ndarray:
    """A copy of the image (H, W, 3) uint8 BGR with the decision written along its lower edge."""
    shown = image.copy()
    if prediction is None:
        return shown
    if prediction.label is None:
        write_bar(shown, prediction.state, 0.0, (0, 200, 255))
    else:
        notes = "  (random weights)" if prediction.random_weights else ""
        write_bar(shown, f"{printable(prediction.label)}  {prediction.score:.0%}{notes}", prediction.score)
    return shown


def write_bar(image: np.ndarray, text: str, share: float = 0.0, colour: Colour = (255, 255, 255)) -> None:
    """Writes a line of text along the lower edge of an image (H, W, 3) uint8 BGR, and a bar above it. share: how long
    that is."""
    cv2 = load_cv2()
    height, width = image.shape[:2]
    scale = _scale(image)
    bar = round(44 * scale)
    image[height - bar :] = image[height - bar :] // 3
    if share:
        reach = round((width - 1) * share)
        cv2.rectangle(image, (0, height - bar), (reach, height - bar + max(1, round(4 * scale))), (90, 220, 90), -1)
    _write(image, text, (round(12 * scale), height - round(13 * scale)), scale * 0.8, colour)


def write_lines(image: np.ndarray, lines: Sequence[tuple[str, Colour]]) -> None:
    """Writes lines of text along the upper edge."""
    scale = _scale(image)
    row = round(30 * scale)
    image[: row * len(lines)] = image[: row * len(lines)] // 3
    for number, (text, colour) in enumerate(lines, 1):
        _write(image, text, (round(12 * scale), row * number - round(9 * scale)), scale * 0.6, colour)


def _scale(image: np.ndarray) -> float:
    return max(0.4, min(image.shape[:2]) / 600)


def _write(image: np.ndarray, text: str, origin: tuple[int, int], size: float, colour: Colour) -> None:
    cv2 = load_cv2()
    thick = max(1, round(2 * size))
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thick, cv2.LINE_AA)
