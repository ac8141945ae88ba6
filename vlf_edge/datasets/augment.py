"""Augmentation that knows what the labels mean: the same change for all frames of a clip, and no flip that lies.

Nothing here turns a clip upside down or plays it backwards: that is another motion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ShapeError
from ..opencv import load_cv2
from ..types import Preprocess

_OPPOSITE = {"left": "right", "clockwise": "counterclockwise"}
_OPPOSITE |= {f"left{end}": f"right{end}" for end in ("ward", "wards", "most", "hand", "handed")}
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}

# Training reads this much more than the model's pixels, so that a random part of it is still no enlargement.
_FINER = 1.3
_WIDER = 1.15
_GREY = np.array([0.114, 0.587, 0.299], np.float32)  # of BGR: Rec. 601 luma


def find_mirrors(labels: Sequence[str]) -> dict[str, str] | None:
    """What a horizontal flip makes of each label that speaks of left, right or a sense of rotation, in English.

    "turn left" <-> "turn_right"; "Pulling something from left to right" <-> "Pulling something from right to left".
    None if the mirror image of one of them is no label: then a flip would be wrong for this data.
    """
    by_words = {_words(label): label for label in labels}
    if len(by_words) < len(labels):
        return None  # two spellings of one name: which mirrors which cannot be told
    mirrors = {}
    for words, label in by_words.items():
        mirrored = tuple(_OPPOSITE.get(word, word) for word in words)
        if mirrored not in by_words:
            return None
        if mirrored != words:
            mirrors[label] = by_words[mirrored]
    return mirrors


def flip_table(labels: Sequence[str], mirrors: Mapping[str, str] | None) -> tuple[int, ...] | None:
    """For each label index the index after a horizontal flip; None if ``mirrors`` is None: never flip."""
    if mirrors is None:
        return None
    return tuple(labels.index(mirrors.get(label, label)) for label in labels)


def enlarged(preprocess: Preprocess) -> Preprocess:
    """What to read for training: the view of ``preprocess`` in finer pixels, and what surrounds it as far as the short
    side of the image allows."""
    wider = min(_WIDER, preprocess.short_side_px / max(preprocess.height_px, preprocess.width_px))
    height_px, width_px = (round(side * wider * _FINER) for side in (preprocess.height_px, preprocess.width_px))
    short_side_px = max(round(preprocess.short_side_px * _FINER), height_px, width_px)
    return replace(preprocess, height_px=height_px, width_px=width_px, short_side_px=short_side_px)


@dataclass(frozen=True)
class Augmentation:
    """Changes a clip as another camera, place or hour would have, drawn anew for each clip, the same for its frames.

    height_px, width_px: of the frames it gives. flips: see ``flip_table``. least_share: the smallest part of the area
    that a crop keeps.
    """

    height_px: int
    width_px: int
    flips: tuple[int, ...] | None = None
    least_share: float = 0.5

    def __call__(self, frames: np.ndarray, label: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """(K, H, W, 3) uint8 BGR of any size -> (K, height_px, width_px, 3) uint8 BGR, and the label it then has."""
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ShapeError(f"frames to augment must be (K, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
        frames = random_resized_crop(frames, self.height_px, self.width_px, rng, self.least_share)
        if self.flips is not None and rng.random() < 0.5:
            frames, label = frames[:, :, ::-1], self.flips[label]
        return soften(jitter_colour(frames, rng), rng), label


def random_resized_crop(
    frames: np.ndarray, height_px: int, width_px: int, rng: np.random.Generator, least_share: float = 0.5
) -> np.ndarray:
    """(K, H, W, 3) uint8 -> (K, height_px, width_px, 3): one random box, ``least_share`` to all of the area, its aspect
    ratio up to 6/5 from the output's."""
    cv2 = load_cv2()
    _, height, width, _ = frames.shape
    area_px = rng.uniform(least_share, 1.0) * height * width
    aspect = width_px / height_px * math.exp(rng.uniform(-1, 1) * math.log(1.2))
    box_height = int(np.clip(round(math.sqrt(area_px / aspect)), 1, height))
    box_width = int(np.clip(round(math.sqrt(area_px * aspect)), 1, width))
    top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
    boxes = frames[:, top : top + box_height, left : left + box_width]
    shrinks = box_height * box_width >= height_px * width_px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(box, (width_px, height_px), interpolation=how) for box in boxes])


def jitter_colour(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K, H, W, 3) uint8 BGR -> the same shape with other exposure, contrast, gamma, white balance and saturation."""
    cv2 = load_cv2()
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    offset, gamma, saturation = rng.uniform(-0.1, 0.1), math.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0.5, 1.4)
    if rng.random() < 0.1:
        saturation = 0.0
    levels = np.linspace(0, 1, 256)[:, None] ** gamma
    curves = np.clip(((levels - 0.5) * gain + 0.5 + offset) * 255, 0, 255).round().astype(np.uint8)  # (256, 3)
    # One tall picture: OpenCV then needs one call for the whole clip.
    tall = np.ascontiguousarray(frames).reshape(-1, frames.shape[2], 3)
    mixed = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _GREY
    return cv2.LUT(cv2.transform(tall, mixed), curves[None]).reshape(frames.shape)


def soften(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K, H, W, 3) uint8 -> the same shape; one clip in four blurred as by a poor lens, one in four grainy."""
    if rng.random() < 0.25:
        cv2, sigma_px = load_cv2(), rng.uniform(0.3, 1.0)
        frames = np.stack([cv2.GaussianBlur(frame, (5, 5), sigma_px) for frame in frames])
    if rng.random() < 0.25:
        grain = rng.standard_normal(frames.shape, np.float32) * np.float32(rng.uniform(1, 8))
        frames = np.clip(frames + grain.round(), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames)


def _words(label: str) -> tuple[str, ...]:
    """ "turnLeft", "Turn-left", "turn_left" -> ("turn", "left"); "anti-clockwise" -> ("counterclockwise",)."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", label)
    words = " ".join(re.split(r"[\W_]+", apart.lower())).strip()
    return tuple(re.sub(r"\b(counter|anti) ?clockwise\b", "counterclockwise", words).split())
