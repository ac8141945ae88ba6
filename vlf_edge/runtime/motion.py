"""A moving scene made from a seed: the test pattern behind test://motion.

A textured plane is seen by a camera that turns, walks and shakes, one kind of motion every two seconds. It is no
data set; it gives a camera-like stream where there is no camera: demonstrations, tests, timing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from ..errors import SourceError
from .opencv import load_cv2

KINDS = ("still", "left", "right", "up", "down", "approach", "recede", "clockwise", "counter-clockwise", "shake")
SEGMENT_S = 2.0
_TEXTURE_PX = 1024


@dataclass(frozen=True)
class MotionOptions:
    """test://motion?fps=30&seconds=20&width=640&height=480&seed=0"""

    fps: float = 30.0
    seconds: float = 20.0
    width: int = 640
    height: int = 480
    seed: int = 0


def parse_motion_url(url: str) -> MotionOptions:
    """Reads the options of a test://motion URL. Raises SourceError naming the options there are."""
    parts = urlsplit(url)
    known = {f.name: type(f.default) for f in fields(MotionOptions)}
    if parts.netloc != "motion":
        raise SourceError(f"no test pattern {url!r}; available: test://motion?{'&'.join(f'{name}=' for name in known)}")
    options = MotionOptions()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        try:
            options = replace(options, **{name: known[name](value)})
        except (KeyError, ValueError):
            raise SourceError(f"{url}: cannot use {name}={value}; options: {', '.join(known)} (numbers)") from None
    sides_fit = 16 <= min(options.width, options.height) and max(options.width, options.height) <= 4096
    if not (0 < options.fps <= 1000 and 0 < options.seconds <= 1e7 and options.seed >= 0 and sides_fit):
        raise SourceError(
            f"{url}: fps must be above 0 and up to 1000, seconds above 0, seed 0 or more, width and height between 16 "
            "and 4096"
        )
    return options


class MotionPattern:
    """Renders the scene at any instant; the same options and instant always give the same image."""

    def __init__(self, options: MotionOptions):
        self._cv2 = load_cv2()
        self._options = options
        rng = np.random.default_rng(options.seed)
        self._texture = self._make_texture(rng)
        self._order = rng.permutation(len(KINDS))
        self._grain = rng.integers(0, 9, (options.height, options.width, 1), np.uint8)

    def kind(self, t_s: float) -> str:
        """The kind of motion under way at that instant."""
        return KINDS[self._order[int(t_s / SEGMENT_S) % len(KINDS)]]

    def render(self, t_s: float) -> np.ndarray:
        """(height, width, 3) uint8 BGR at ``t_s`` seconds."""
        height, width = self._options.height, self._options.width
        phase = t_s % SEGMENT_S / SEGMENT_S
        x, y, zoom, angle = _pose(self.kind(t_s), phase)
        # Every stretch looks elsewhere, so that a long stream never shows the same view twice.
        elsewhere = np.random.default_rng((self._options.seed, int(t_s / SEGMENT_S))).uniform(-1, 1, 3)
        x, y, angle = x + 0.2 * elsewhere[0], y + 0.2 * elsewhere[1], angle + 0.4 * elsewhere[2]
        scale = zoom * max(height, width) / _TEXTURE_PX * 1.6
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        # Maps texture pixels to image pixels: the texture point looked at lands in the image's centre.
        look_x, look_y = (0.5 + x) * _TEXTURE_PX, (0.5 + y) * _TEXTURE_PX
        matrix = np.array(
            [
                [cos, -sin, width / 2 - cos * look_x + sin * look_y],
                [sin, cos, height / 2 - sin * look_x - cos * look_y],
            ]
        )
        view = self._cv2.warpAffine(self._texture, matrix, (width, height), borderMode=self._cv2.BORDER_REFLECT)
        # Sensor grain moves every frame, as it does on a real camera.
        shift = int(t_s * self._options.fps + 0.5) * 7
        return self._cv2.add(view, np.repeat(np.roll(self._grain, shift, axis=(0, 1)), 3, axis=2))

    def _make_texture(self, rng: np.random.Generator) -> np.ndarray:
        """Smooth noise at four scales with some hard-edged shapes on it: (1024, 1024, 3) uint8."""
        cv2 = self._cv2
        size = (_TEXTURE_PX, _TEXTURE_PX)
        layers = [
            cv2.resize(
                rng.normal(0, 80 / cells**0.5, (cells, cells, 3)).astype(np.float32),
                size,
                interpolation=cv2.INTER_CUBIC,
            )
            for cells in (4, 12, 40, 120)
        ]
        texture = np.clip(sum(layers) + 118, 0, 246).astype(np.uint8)
        for _ in range(60):
            centre = tuple(int(v) for v in rng.integers(0, _TEXTURE_PX, 2))
            axes = tuple(int(v) for v in rng.integers(8, 60, 2))
            colour = tuple(int(v) for v in rng.integers(0, 247, 3))
            cv2.ellipse(texture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        return texture


def _pose(kind: str, phase: float) -> tuple[float, float, float, float]:
    """Where the camera looks at ``phase`` (0 to 1) of a motion: x, y (shares of the texture), zoom, angle (rad)."""
    way = phase - 0.5
    shake = 0.05 * np.sin(2 * np.pi * 5 * phase)
    return {
        "still": (0.0, 0.0, 1.0, 0.0),
        "left": (-0.3 * way, 0.0, 1.0, 0.0),
        "right": (0.3 * way, 0.0, 1.0, 0.0),
        "up": (0.0, -0.3 * way, 1.0, 0.0),
        "down": (0.0, 0.3 * way, 1.0, 0.0),
        "approach": (0.0, 0.0, 1.35**way, 0.0),
        "recede": (0.0, 0.0, 1.35**-way, 0.0),
        "clockwise": (0.0, 0.0, 1.0, 0.9 * way),
        "counter-clockwise": (0.0, 0.0, 1.0, -0.9 * way),
        "shake": (shake, 0.0, 1.0, 0.0),
    }[kind]
