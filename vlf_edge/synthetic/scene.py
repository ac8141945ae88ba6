"""A scene of flat layers: a surface that fills the view, sprites made of parts in front of it, and a lens.

Coordinates: x to the right, y down, origin in the image's centre, unit the image's short side. Angles in radians,
clockwise as seen. A pose is (x, y, log scale, angle, aperture).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ..opencv import load_cv2
from .textures import SIDE_PX, texture

SPRITE_PX = 96
SHAPES = ("blob", "star", "ellipse", "bar", "ell", "hand")
LONG_SHAPES = SHAPES[2:]  # those that show at a glance how they are turned
JOINTED = ("mouth", "doors", "fingers", "scissors")  # what can open and close
_GRAIN_ROOM_PX = 64


@dataclass(frozen=True)
class Part:
    """A cut-out and how it moves with its owner's aperture. pixels: (S, S, 4) uint8, premultiplied BGR and alpha.

    turn: radians per unit of aperture, about the owner's centre. slide: (x, y) per unit of aperture, in radii.
    """

    pixels: np.ndarray
    turn: float = 0.0
    slide: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Lens:
    """What stands between the scene and the pixels; strengths in grey levels or pixels, 0 for none."""

    noise: float = 0.0
    blur_px: float = 0.0
    gain: float = 1.0
    bias: float = 0.0
    flicker: float = 0.0
    drift: float = 0.0
    jpeg_quality: int = 0
    occluder: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Drift:
    """Slow and small motion that means nothing: a hand that holds a camera."""

    amplitude: np.ndarray  # (4, 3)
    phase: np.ndarray  # (4, 3)
    frequency_hz: np.ndarray  # (4, 3)

    def at(self, t_s: float) -> np.ndarray:
        return (self.amplitude * np.sin(2 * np.pi * self.frequency_hz * t_s + self.phase)).sum(axis=1)


def affine(pose: np.ndarray, pivot: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(2, 3) matrix: scale and turn about ``pivot``, then shift; units of the short side."""
    x, y, log_scale, angle = pose[:4]
    scale = np.exp(log_scale)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    px, py = pivot
    return np.array([[cos, -sin, px - cos * px + sin * py + x], [sin, cos, py - sin * px - cos * py + y]])


def chain(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix that applies ``inner`` first."""
    product = outer[:, :2] @ inner
    product[:, 2] += outer[:, 2]
    return product


class Canvas:
    """Draws layers on one image of (height, width, 3) uint8 BGR."""

    def __init__(self, width: int, height: int):
        self._cv2 = load_cv2()
        self.width, self.height, self.short = width, height, min(width, height)
        self._to_pixels = np.array([[self.short, 0, width / 2 - 0.5], [0, self.short, height / 2 - 0.5]], float)

    def surface(self, pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The view of a plane tiled with mirrored ``pixels``; ``matrix`` maps the plane (unit: a tile) to the view."""
        side = pixels.shape[0]
        to_plane = np.array([[1 / side, 0, -0.5], [0, 1 / side, -0.5]])
        return self._cv2.warpAffine(
            pixels,
            chain(self._to_pixels, chain(matrix, to_plane)),
            (self.width, self.height),
            flags=self._cv2.INTER_LINEAR,
            borderMode=self._cv2.BORDER_REFLECT,
        )

    def sprite(self, image: np.ndarray, parts: Sequence[Part], matrix: np.ndarray, aperture: float = 0.0) -> np.ndarray:
        """``image`` with a sprite over it; ``matrix`` maps the sprite (unit: its radius) to the view."""
        for part in parts:
            image = self._part(image, part, matrix, aperture)
        return image

    def _part(self, image: np.ndarray, part: Part, matrix: np.ndarray, aperture: float) -> np.ndarray:
        cv2 = self._cv2
        half = part.pixels.shape[0] / 2
        to_sprite = np.array([[1 / half, 0, -1.0], [0, 1 / half, -1.0]])
        slide = np.array([part.slide[0] * aperture, part.slide[1] * aperture, 0.0, part.turn * aperture])
        whole = chain(self._to_pixels, chain(matrix, chain(affine(slide), to_sprite)))
        top = cv2.warpAffine(part.pixels, whole, (self.width, self.height), flags=cv2.INTER_LINEAR)
        behind = cv2.multiply(image, cv2.cvtColor(255 - top[..., 3], cv2.COLOR_GRAY2BGR), scale=1 / 255)
        return cv2.add(behind, cv2.cvtColor(top, cv2.COLOR_BGRA2BGR))

    def expose(self, image: np.ndarray, lens: Lens, time: float, rng: np.random.Generator) -> np.ndarray:
        """What the sensor makes of it. time: -0.5 to 0.5 over the clip, for slow changes of the light."""
        cv2 = self._cv2
        if lens.occluder is not None:
            behind = cv2.multiply(image, cv2.cvtColor(255 - lens.occluder[..., 3], cv2.COLOR_GRAY2BGR), scale=1 / 255)
            image = cv2.add(behind, np.ascontiguousarray(lens.occluder[..., :3]))
        if lens.blur_px:
            image = cv2.GaussianBlur(image, (0, 0), lens.blur_px)
        gain = lens.gain * (1 + lens.drift * time + lens.flicker * rng.normal())
        top, left = (int(v) for v in rng.integers(0, _GRAIN_ROOM_PX, 2))
        grain = _grain(self.height, self.width)[top : top + self.height, left : left + self.width]
        share = lens.noise / 32
        image = cv2.addWeighted(image, gain, grain, share, lens.bias - 128 * share)
        if lens.jpeg_quality:
            _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, lens.jpeg_quality])
            image = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        return image


@lru_cache(maxsize=4)
def _grain(height: int, width: int) -> np.ndarray:
    """Noise to cut a (height, width, 3) piece from at any of 64x64 places; its mean is 128, its deviation 32."""
    shape = (height + _GRAIN_ROOM_PX, width + _GRAIN_ROOM_PX, 3)
    noise = np.random.default_rng(0).normal(128, 32, shape)
    return np.clip(noise, 0, 255).astype(np.uint8)


def any_texture(rng: np.random.Generator, surfaces: Sequence[int]) -> np.ndarray:
    """One of the numbered textures: (256, 256, 3) uint8."""
    return texture(surfaces[int(rng.integers(len(surfaces)))])


def horizon(rng: np.random.Generator, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Two surfaces that meet along a line, as a wall and a floor do: the same from end to end is hardly any real view.

    above, below, and the result: (256, 256, 3) uint8.
    """
    both, row = above.copy(), int(rng.integers(SIDE_PX // 4, 3 * SIDE_PX // 4))
    both[row:] = below[row:]
    return both


def plain_sprite(rng: np.random.Generator, surfaces: Sequence[int], shapes: Sequence[str] = SHAPES) -> tuple[Part, ...]:
    """A sprite of one part. surfaces: the textures to choose from; shapes: the outlines."""
    mask = _mask(shapes[rng.integers(len(shapes))], rng)
    return (Part(_cutout(mask, rng, surfaces)),)


def jointed_sprite(rng: np.random.Generator, surfaces: Sequence[int]) -> tuple[Part, ...]:
    """A sprite that aperture (0 closed to 1 open) opens: a mouth, doors, a spread hand, scissors."""
    cv2 = load_cv2()
    kind = JOINTED[rng.integers(len(JOINTED))]
    centre, half = SPRITE_PX // 2, SPRITE_PX // 2 - 3
    look = rng.integers(1 << 31)

    def cutout(mask: np.ndarray) -> np.ndarray:
        return _cutout(mask, np.random.default_rng(look), surfaces)  # all parts of a sprite look alike

    if kind in ("mouth", "doors"):
        whole = np.zeros((SPRITE_PX, SPRITE_PX), np.uint8)
        if kind == "mouth" or rng.random() < 0.4:
            cv2.circle(whole, (centre, centre), half, 255, -1, cv2.LINE_AA)
        else:
            edge = int(half * rng.uniform(0.5, 0.95))
            cv2.rectangle(whole, (centre - half, centre - edge), (centre + half, centre + edge), 255, -1)
        upper, lower = whole.copy(), whole.copy()
        upper[centre:], lower[:centre] = 0, 0
        if kind == "mouth":
            turn = float(rng.uniform(0.8, 1.2))
            return Part(cutout(upper), turn=-turn), Part(cutout(lower), turn=turn)
        slide = float(rng.uniform(0.4, 0.65))
        return Part(cutout(upper), slide=(0.0, -slide)), Part(cutout(lower), slide=(0.0, slide))
    bar = np.zeros((SPRITE_PX, SPRITE_PX), np.uint8)
    thick = int(half * rng.uniform(0.2, 0.36))
    cv2.rectangle(bar, (centre - thick, centre - thick // 2), (centre + half, centre + thick // 2), 255, -1)
    count = 2 if kind == "scissors" else int(rng.integers(3, 6))
    spread = float(rng.uniform(1.4, 2.2)) / (count - 1)
    return tuple(Part(cutout(bar), turn=spread * (i - (count - 1) / 2)) for i in range(count))


def contrast(sprite: Sequence[Part], surface: np.ndarray) -> float:
    """How far the mean colour of a sprite is from that of what is behind it, in grey levels."""
    pixels = sprite[0].pixels.reshape(-1, 4).astype(np.float32)
    colour = pixels[:, :3].sum(axis=0) / max(1.0, pixels[:, 3].sum() / 255)
    return float(np.abs(colour - surface.reshape(-1, 3).mean(axis=0)).mean())


def detail(image: np.ndarray) -> float:
    """Standard deviation of the brightness, in grey levels, of the emptiest quarter of an image's centre square."""
    cv2 = load_cv2()
    short = min(image.shape[:2])
    top, left = ((side - short) // 2 for side in image.shape[:2])
    grey = cv2.cvtColor(image[top : top + short, left : left + short], cv2.COLOR_BGR2GRAY)
    half = short // 2
    return min(float(grey[y : y + half, x : x + half].std()) for y in (0, half) for x in (0, half))


def occluder(rng: np.random.Generator, surfaces: Sequence[int], width: int, height: int) -> np.ndarray:
    """(height, width, 4) uint8, premultiplied: a bar or a corner that stands before everything and never moves."""
    cv2 = load_cv2()
    mask = np.zeros((height, width), np.uint8)
    short = min(width, height)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    size = (float(rng.uniform(0.05, 0.15) * short), float(rng.uniform(0.3, 0.9) * short))
    box = cv2.boxPoints(((float(x), float(y)), size, float(rng.uniform(0, 180))))
    cv2.fillPoly(mask, [box.astype(np.int32)], 255, cv2.LINE_AA)
    return _premultiplied(cv2.resize(any_texture(rng, surfaces), (width, height)), mask)


def _mask(shape: str, rng: np.random.Generator) -> np.ndarray:
    """(96, 96) uint8: where the cut-out is."""
    cv2 = load_cv2()
    mask = np.zeros((SPRITE_PX, SPRITE_PX), np.uint8)
    centre, half = SPRITE_PX // 2, SPRITE_PX // 2 - 3
    if shape == "ellipse":
        axes = (half, int(half * rng.uniform(0.35, 0.75)))
        cv2.ellipse(mask, (centre, centre), axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    elif shape in ("bar", "ell"):
        thick = int(half * rng.uniform(0.25, 0.7))
        cv2.rectangle(mask, (centre - half, centre - thick), (centre + half, centre + thick), 255, -1)
        if shape == "ell":
            cv2.rectangle(mask, (centre - half, centre - half), (centre - half + thick * 2, centre + half), 255, -1)
    elif shape == "hand":
        cv2.ellipse(mask, (centre, centre + half // 3), (half // 2, int(half * 0.6)), 0, 0, 360, 255, -1, cv2.LINE_AA)
        for turn in np.linspace(-0.9, 0.7, 5) + rng.uniform(-0.1, 0.1):
            tip = (centre + int(half * np.sin(turn)), centre + half // 3 - int(half * 1.1 * np.cos(turn)))
            cv2.line(mask, (centre, centre + half // 3), tip, 255, max(3, half // 5), cv2.LINE_AA)
    else:
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        if shape == "star":
            wave = 0.65 + 0.35 * np.cos(turns * rng.integers(3, 7))
        else:
            waves = [rng.uniform(0, 0.4) / n * np.cos(n * turns + rng.uniform(0, 6.3)) for n in range(1, 6)]
            wave = 1 + np.sum(waves, axis=0)
        radii = half * wave / wave.max()
        points = np.stack([centre + radii * np.cos(turns), centre + radii * np.sin(turns)], axis=1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    return mask


def _cutout(mask: np.ndarray, rng: np.random.Generator, surfaces: Sequence[int]) -> np.ndarray:
    """A textured cut-out of that shape: (96, 96, 4) uint8, premultiplied."""
    pixels = any_texture(rng, surfaces)
    side = int(rng.integers(SPRITE_PX, SIDE_PX))
    top, left = rng.integers(0, SIDE_PX - side + 1, 2)
    cv2 = load_cv2()
    pixels = cv2.resize(
        pixels[top : top + side, left : left + side], (SPRITE_PX, SPRITE_PX), interpolation=cv2.INTER_AREA
    )
    if rng.random() < 0.4:  # one colour with a faint texture, as most things have
        pixels = cv2.addWeighted(pixels, 0.25, np.full_like(pixels, rng.integers(0, 256, 3)), 0.75, 0)
    return _premultiplied(pixels, mask)


def _premultiplied(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    cv2 = load_cv2()
    return np.dstack([cv2.multiply(pixels, cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR), scale=1 / 255), mask])
