"""A decision written onto its frame."""

from __future__ import annotations

import numpy as np

from ...opencv import load_cv2
from ...printable import printable
from ...types import Prediction


def annotate(image: np.ndarray, prediction: Prediction | None) -> np.ndarray:
    """A copy of the image (H, W, 3) uint8 BGR with the decision written along its lower edge."""
    cv2 = load_cv2()
    shown = image.copy()
    if prediction is None:
        return shown
    height, width = image.shape[:2]
    scale = max(0.4, min(height, width) / 600)
    bar = round(44 * scale)
    shown[height - bar :] = shown[height - bar :] // 3
    text, colour = prediction.state, (0, 200, 255)
    if prediction.label is not None:
        text, colour = f"{printable(prediction.label)}  {prediction.score:.0%}", (255, 255, 255)
        reach = round((width - 1) * prediction.score)
        cv2.rectangle(shown, (0, height - bar), (reach, height - bar + max(1, round(4 * scale))), (90, 220, 90), -1)
        if prediction.random_weights:
            text += "  (random weights)"
    origin = (round(12 * scale), height - round(13 * scale))
    thick = max(1, round(1.6 * scale))
    cv2.putText(shown, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale * 0.8, colour, thick, cv2.LINE_AA)
    return shown
