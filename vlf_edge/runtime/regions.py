"""Regions: every tracked person or object of a camera is a stream of its own, cut out of the camera's frames."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import VlfError
from ..opencv import load_cv2
from ..types import Prediction
from ..video.preprocess import check_image
from .recognizer import Recognizer


class Regions:
    """The tracked boxes of one camera.

    camera: its name; the stream of track 7 is "camera/7". margin: how much is added on each side of a box, as a share
    of it, since hands reach out of the boxes that detectors draw.
    """

    def __init__(self, recognizer: Recognizer, camera: str, margin: float = 0.1):
        if not 0 <= margin <= 2:
            raise VlfError(f"margin is {margin!r}; expected a share of the box from 0 to 2")
        self._recognizer, self._camera, self.margin = recognizer, camera, margin
        self._last_seen_s: dict[Hashable, float] = {}

    def push(
        self, image: np.ndarray, t_s: float, boxes: Mapping[Hashable, Sequence[float]]
    ) -> dict[Hashable, Prediction | None]:
        """One frame of the camera with the boxes of who is in it.

        image: (H, W, 3) uint8 BGR. t_s: seconds. boxes: {track: (x1, y1, x2, y2)} in pixels. Returns {track:
        prediction}, None where a track's own grid does not want this frame. A box that is not finite, is empty or lies
        outside the picture is no sight of its track, as if it were not there. A track unseen for a window's span is
        forgotten; if it comes back, it is ``warming``. Raises ShapeError, VlfError for a box of other than four numbers.
        """
        check_image(image)
        sizes = self._recognizer.manifest.preprocess
        aspect = sizes.width_px / sizes.height_px
        predictions: dict[Hashable, Prediction | None] = dict.fromkeys(boxes)
        seen, frames = [], []
        for track, box in boxes.items():
            cut = cut_region(image, _checked(track, box), self.margin, aspect)
            if cut is not None:
                seen.append(track)
                frames.append((self._stream(track), cut, t_s))
        for track, prediction in zip(seen, self._recognizer.push_many(frames)):
            self._last_seen_s[track] = t_s
            predictions[track] = prediction
        self._forget_gone(t_s)
        return predictions

    def _stream(self, track: Hashable) -> str:
        return f"{self._camera}/{track}"

    def _forget_gone(self, t_s: float) -> None:
        span_s = self._recognizer.sampling.span_s
        for track in [track for track, last_s in self._last_seen_s.items() if abs(t_s - last_s) > span_s]:
            del self._last_seen_s[track]
            self._recognizer.forget(self._stream(track))


def cut_region(image: np.ndarray, box: Sequence[float], margin: float, aspect: float) -> np.ndarray | None:
    """What a box and its margin show, with the model's width / height, so that nothing of it is cut off later.

    image: (H, W, 3) uint8. box: x1, y1, x2, y2 in pixels. The cut is moved into the picture where it fits; where it is
    larger than the picture, the picture's edges are continued. None if the box holds no pixel of the picture.
    """
    height, width = image.shape[:2]
    if not all(map(math.isfinite, box)):
        return None
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    if x2 - x1 < 1 or y2 - y1 < 1:
        return None
    grown_height = max((y2 - y1) * (1 + 2 * margin), (x2 - x1) * (1 + 2 * margin) / aspect)
    cut_height = max(1, math.ceil(grown_height))
    cut_width = max(1, math.ceil(cut_height * aspect))
    top = _into(round((y1 + y2 - cut_height) / 2), cut_height, height)
    left = _into(round((x1 + x2 - cut_width) / 2), cut_width, width)
    cut = image[max(0, top) : top + cut_height, max(0, left) : left + cut_width]
    if cut.shape[:2] == (cut_height, cut_width):
        return cut
    above, before = max(0, -top), max(0, -left)
    below, after = cut_height - cut.shape[0] - above, cut_width - cut.shape[1] - before
    cv2 = load_cv2()
    return cv2.copyMakeBorder(cut, above, below, before, after, cv2.BORDER_REPLICATE)


def _into(start: int, length: int, room: int) -> int:
    """Where a length must start to lie within 0 to ``room``; centred over it if it is longer."""
    return (room - length) // 2 if length > room else min(max(start, 0), room - length)


def _checked(track: Any, box: Any) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = map(float, box)
    except (TypeError, ValueError):
        raise VlfError(
            f"the box of track {track!r} is {box!r}; expected four numbers x1, y1, x2, y2 in pixels"
        ) from None
    return x1, y1, x2, y2
