"""Surfaces for rendered scenes, each made from a number: no files, and always the same.

Photographs are mostly things in front of other things, with sizes that follow a power law: the dead leaves model
(Lee, Mumford and Huang, IJCV 2001). Those, smooth noise of falling spectrum, and regular patterns are mixed here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..opencv import load_cv2

TRAINING, HELD_OUT = range(384), range(384, 512)
SIDE_PX = 256
# Textures go from a few shapes on a plain ground (rank 0) to full ones (rank 31), over and over.
RANKS = 32


@lru_cache(maxsize=len(TRAINING) + len(HELD_OUT))
def texture(number: int) -> np.ndarray:
    """Surface ``number``: (256, 256, 3) uint8 BGR, read-only. Kept, since making one takes milliseconds."""
    cv2 = load_cv2()
    rng = np.random.default_rng((number, 0x7E47))
    palette = _palette(rng)
    fullness = number % RANKS / (RANKS - 1)
    kind = rng.random()
    if fullness < 0.4 or kind < 0.7:
        image = _leaves(rng, palette, fullness)
    elif kind < 0.85:
        image = _clouds(rng, palette)
    else:
        image = _pattern(rng, palette)
    if rng.random() < fullness:  # unevenly lit, and never quite flat
        image = image * (1 + rng.uniform(0.1, 0.5) * _noise(rng, rng.uniform(1.0, 2.5))[..., None])
    image = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.5)))
    image.flags.writeable = False
    return image


def _palette(rng: np.random.Generator) -> np.ndarray:
    """(n, 3) float BGR colours that go together: one hue's neighbourhood, some greys, wide steps in brightness."""
    count = int(rng.integers(3, 9))
    bright = rng.uniform(15, 240, (count, 1))
    tint = rng.uniform(-1, 1, (1, 3)) * rng.uniform(0, 60) + rng.uniform(-1, 1, (count, 3)) * rng.uniform(0, 70)
    return np.clip(bright + tint, 0, 255)


def _leaves(rng: np.random.Generator, palette: np.ndarray, fullness: float) -> np.ndarray:
    """Opaque shapes over each other, many small and few large: (256, 256, 3) float."""
    cv2 = load_cv2()
    image = np.empty((SIDE_PX, SIDE_PX, 3), np.float32)
    image[:] = palette[0]
    smallest, largest = rng.uniform(2, 8) + 12 * (1 - fullness), rng.uniform(30, 110)
    count = int(8 * 50 ** (fullness * rng.uniform(0.7, 1)))
    # Radii with density r^-3 between the bounds.
    spread = rng.random(count)
    radii = 1 / np.sqrt(spread / smallest**2 + (1 - spread) / largest**2)
    for radius in np.sort(radii)[::-1] if rng.random() < 0.5 else radii:
        x, y = rng.uniform(0, SIDE_PX, 2)
        colour = palette[rng.integers(len(palette))] + rng.normal(0, 12)
        colour = tuple(float(v) for v in np.clip(colour, 0, 255))
        shape, squeeze, angle = rng.random(), rng.uniform(0.3, 1), rng.uniform(0, 360)
        if shape < 0.4:
            axes = (max(1, round(radius)), max(1, round(radius * squeeze)))
            cv2.ellipse(image, (round(x), round(y)), axes, angle, 0, 360, colour, -1)
        else:
            corners = 4 if shape < 0.8 else int(rng.integers(3, 8))
            box = cv2.boxPoints(((x, y), (2 * radius, 2 * radius * squeeze), angle if shape > 0.6 else 0.0))
            if corners != 4:
                turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
                box = np.stack([x + radius * np.cos(turns), y + radius * squeeze * np.sin(turns)], axis=1)
            cv2.fillPoly(image, [box.astype(np.int32)], colour)
    return image


def _clouds(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """Noise of falling spectrum, coloured along the palette: (256, 256, 3) float."""
    field = _noise(rng, rng.uniform(0.9, 2.2))
    place = np.clip((field + 2) / 4, 0, 1) * (len(palette) - 1)
    return np.stack([np.interp(place, np.arange(len(palette)), palette[:, c]) for c in range(3)], axis=2)


def _pattern(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """Bricks, boards, tiles or lines of writing: (256, 256, 3) float."""
    cv2 = load_cv2()
    image = np.empty((SIDE_PX, SIDE_PX, 3), np.float32)
    image[:] = palette[0]
    height, width = rng.integers(8, 48), rng.integers(8, 90)
    margin, ragged = int(rng.integers(1, 5)), rng.random() < 0.8
    for row, top in enumerate(range(-int(height), SIDE_PX, int(height))):
        left = -int(width) + (row % 2) * int(width) // 2
        while left < SIDE_PX:
            length = int(rng.uniform(0.3, 1.6) * width) if ragged else int(width)
            colour = palette[1 + rng.integers(len(palette) - 1)] + rng.normal(0, 10)
            colour = tuple(float(v) for v in np.clip(colour, 0, 255))
            corner = (left + max(margin, length - margin), top + max(margin, int(height) - margin))
            if not ragged or rng.random() < 0.75:
                cv2.rectangle(image, (left + margin, top + margin), corner, colour, -1)
            left += max(4, length)
    return image


def _noise(rng: np.random.Generator, slope: float) -> np.ndarray:
    """(256, 256) float of unit variance whose amplitude falls as frequency to the -slope; it tiles."""
    frequency = np.hypot(np.fft.fftfreq(SIDE_PX)[:, None], np.fft.rfftfreq(SIDE_PX)[None])
    frequency[0, 0] = np.inf
    shape = frequency.shape
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * frequency**-slope
    field = np.fft.irfft2(spectrum, s=(SIDE_PX, SIDE_PX))
    return field / field.std()
