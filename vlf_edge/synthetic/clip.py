"""Motion-13: rendered clips whose class lies in time alone.

What moves is the whole view (a camera that turns, walks, rolls) or one sprite in front of a still or slowly moving
background; others may move besides, but less. A class names how the image content moves: "left" is content moving to
the left, as when a camera turns to the right. Five pairs are each other's reverse: played backwards, a clip of one is,
frame for frame, the clip of the other with the same seed. So no single frame, and no bag of frames, tells the two
apart; only their order does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scene import (
    LONG_SHAPES,
    SHAPES,
    Canvas,
    Drift,
    Lens,
    Part,
    affine,
    any_texture,
    chain,
    contrast,
    detail,
    horizon,
    jointed_sprite,
    occluder,
    plain_sprite,
)
from .textures import HELD_OUT, RANKS, TRAINING

REVERSES = {
    "left": "right",
    "up": "down",
    "recede": "approach",
    "counter-clockwise": "clockwise",
    "close": "open",
}
CLASSES = (
    "still", "left", "right", "up", "down", "approach", "recede", "clockwise", "counter-clockwise", "shake", "nod",
    "open", "close",
)  # fmt: skip
MIRRORS = {"left": "right", "right": "left", "clockwise": "counter-clockwise", "counter-clockwise": "clockwise"}
# Clips with these seeds and above are for validation and tests: they show surfaces that no other clip shows.
HELD_OUT_SEED = 1 << 40
# What ``shift`` measures, and its usual size in a quarter of a second; x and y in short sides, angle in radians.
SHIFTS = ("x", "y", "log scale", "angle", "aperture")
USUAL = np.array([0.06, 0.06, 0.09, 0.18, 0.1])
# Grey levels of ``scene.detail`` below which a moving view is drawn again, and how often at most.
_LEAST_DETAIL, _DRAWS = 5.0, 6
_AXIS = {"right": 0, "down": 1, "approach": 2, "clockwise": 3, "open": 4, "shake": 0, "nod": 1}


def surfaces_of(seed: int) -> range:
    """The textures that a clip of this seed shows."""
    return HELD_OUT if seed >= HELD_OUT_SEED else TRAINING


@dataclass(frozen=True)
class _Distractor:
    """A sprite that the label is not about: fixed to the scene, with a motion of its own in it."""

    sprite: tuple[Part, ...]
    place: np.ndarray  # (2, 3)
    speed: np.ndarray  # (4,), as a pose, per second
    swing: np.ndarray  # (4,)
    swing_hz: float
    phase: float

    def at(self, t_s: float) -> np.ndarray:
        """(2, 3) matrix from the sprite to the scene."""
        swing = self.swing * np.sin(2 * np.pi * self.swing_hz * t_s + self.phase)
        return chain(affine(self.speed * t_s + swing, (self.place[0, 2], self.place[1, 2])), self.place)


class MotionClip:
    """One labelled clip: any frame of it can be rendered by itself.

    label: one of CLASSES. seed: of everything in it. width, height: px. fps, seconds: ``count`` frames, frame i at
    i / fps seconds. ease: 0 (as hard as it comes) to 1 (large, fast, clean), for training in steps. rest_s: how long
    the mover rests at the beginning, and at the end, of these seconds; what else stirs does not.
    moves_view: the whole view moves, else one sprite in it. Raises ValueError for an unknown label.
    """

    def __init__(
        self,
        label: str,
        seed: int,
        width: int,
        height: int,
        fps: float = 30.0,
        seconds: float = 2.0,
        ease: float = 0.0,
        rest_s: float = 0.0,
    ):
        self.label, self.seed, self.fps = label, seed, fps
        self.count = max(2, round(seconds * fps))
        self._backwards = label in REVERSES
        self._forward = REVERSES.get(label, label)
        self._seconds = (self.count - 1) / fps
        self._moving_s = self._seconds - 2 * rest_s
        self._canvas = Canvas(width, height)
        # The name of the pair, never of the clip's own class: reverses must get the same scene.
        rng = np.random.default_rng((seed, CLASSES.index(self._forward), 13))
        hard = 1 - ease * rng.random()
        self._plain = rng.random() < ease - 0.3
        surfaces = surfaces_of(seed)
        self._surfaces = [number for number in surfaces if number % RANKS <= (1 - ease) * (RANKS - 1)]
        self._compose_motion(rng, hard)
        self._compose_scene(rng, hard, ease, width, height)
        self._compose_distractors(rng, hard)

    def render(self, index: int) -> np.ndarray:
        """Frame ``index`` (0 to count - 1): (height, width, 3) uint8 BGR."""
        step, t_s = self._step(index), self._time_s(index)
        pose = self._pose(t_s)
        jitter = affine(self._drift.at(t_s))
        scene = affine(pose, self._pivot) if self._sprite is None else affine(self._behind * t_s)
        image = self._canvas.surface(self._surface, chain(jitter, chain(scene, self._base)))
        for distractor in self._distractors:
            image = self._canvas.sprite(image, distractor.sprite, chain(jitter, chain(scene, distractor.at(t_s))))
        if self._sprite is not None:
            matrix = chain(jitter, chain(affine(pose, self._pivot), self._place))
            image = self._canvas.sprite(image, self._sprite, matrix, pose[4])
        noise = np.random.default_rng((self.seed, step))
        return self._canvas.expose(image, self._lens, step / (self.count - 1) - 0.5, noise)

    @property
    def begins_s(self) -> float:
        """When the mover begins to move, in seconds from the first frame."""
        share = 1.0 if self.label in ("shake", "nod") else self._share
        return (self._seconds - share * self._moving_s) / 2

    @property
    def ends_s(self) -> float:
        """When it has come to rest."""
        return self._seconds - self.begins_s

    def shift(self, index: int, later: int) -> np.ndarray:
        """How the mover's pose changes from frame ``index`` to frame ``later``: (5,) float32, entries as SHIFTS says,
        each divided by its usual change in a quarter of a second."""
        before, after = (self._pose(self._time_s(i)) for i in (index, later))
        return ((after - before) / USUAL).astype(np.float32)

    def _time_s(self, index: int) -> float:
        """From -seconds/2 to seconds/2; backwards in a clip that is another one played backwards."""
        return (self._step(index) / self.fps) - self._seconds / 2

    def _step(self, index: int) -> int:
        return self.count - 1 - index if self._backwards else index

    def _pose(self, t_s: float) -> np.ndarray:
        """(x, y, log scale, angle, aperture) of the mover; time runs from -seconds/2 to seconds/2."""
        if self.label in ("shake", "nod"):
            t_s = np.clip(t_s, -self._moving_s / 2, self._moving_s / 2)
            way = np.sin(2 * np.pi * self._rate_hz * t_s + self._phase)
        else:
            u = np.clip((t_s / self._moving_s) / self._share, -0.5, 0.5)
            way = u + self._sway * (np.sin(2 * np.pi * u + self._phase) - np.sin(self._phase)) / (2 * np.pi)
        pose = self._middle + self._travel * way
        pose[4] = np.clip(pose[4], 0.0, 1.0)
        return pose

    def _compose_motion(self, rng: np.random.Generator, hard: float) -> None:
        """How far along which axis, at what pace, and what else stirs."""
        span = np.sqrt(self._moving_s / 2)  # longer clips travel further, but more slowly: sprites stay in view
        low = 1 - hard
        self._travel = np.zeros(5)
        self._middle = np.zeros(5)
        self.moves_view = self._forward != "open" and rng.random() < 0.65 and not self._plain
        axis = _AXIS.get(self._forward)
        ranges = {0: (0.32, 0.8), 1: (0.32, 0.8), 2: (0.5, 1.2), 3: (0.9, 2.6), 4: (0.85, 1.0)}
        self._phase, self._sway = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6) * hard
        self._rate_hz = rng.uniform(0.65, 1.25)
        self._share = rng.uniform(0.85, 1.0) if rng.random() < 0.15 * hard else 1.0
        if axis is not None:
            least, most = ranges[axis]
            least += low * 0.4 * (most - least)
            self._travel[axis] = rng.uniform(least, most) * span
            if self._forward in ("shake", "nod"):
                self._travel[axis] = rng.uniform(0.1 + 0.03 * low, 0.22)
            # A little of everything else, as in any real motion.
            stray = rng.uniform(-1, 1, 4) * np.array([0.05, 0.05, 0.08, 0.1]) * hard * (rng.random() < 0.5)
            stray[axis if axis < 4 else 0] = 0
            self._travel[:4] += stray
        self._middle[4] = rng.uniform(0.45, 0.55)
        size = np.array([0.006, 0.006, 0.006, 0.008])[:, None] * rng.random() * hard
        self._drift = Drift(size * rng.normal(size=(4, 3)), rng.uniform(0, 6.3, (4, 3)), rng.uniform(0.2, 2.5, (4, 3)))

    def _compose_scene(self, rng: np.random.Generator, hard: float, ease: float, width: int, height: int) -> None:
        """What is seen, and through what lens."""
        # What happens to a sprite in its place is subtle: it needs size, and little behind it.
        subtle = self._forward in ("open", "clockwise", "approach")
        fullest = RANKS if self.moves_view else RANKS // 3 if subtle else RANKS // 2
        self._compose_surface(rng, ease, [number for number in self._surfaces if number % RANKS <= fullest])
        self._behind = np.zeros(4)
        self._sprite, self._pivot = None, tuple(rng.uniform(-0.15, 0.15, 2) * hard)
        aspect_x, aspect_y = width / min(width, height), height / min(width, height)
        if not self.moves_view:
            still = self._forward == "still"
            self._sprite = () if still and rng.random() < 0.5 else self._clearest_sprite(rng)
            radius = rng.uniform(0.32, 0.46) if subtle else rng.uniform(0.24, 0.46)
            # Where it is in the middle of the clip, so that it stays in the centre cut: wholly, or for the most part.
            outside = 0.0 if subtle else 0.5 * radius
            room = np.maximum(0.03, 0.5 - 0.5 * np.abs(self._travel[:2]) - radius + outside)
            self._pivot = tuple(rng.uniform(-room, room) * np.minimum(1, [aspect_x, aspect_y]))
            turn = rng.uniform(0, 2 * np.pi)
            self._place = affine(np.array([*self._pivot, np.log(radius), turn]))
            if not still and not subtle and rng.random() < 0.25 * hard:
                self._behind = rng.normal(0, 1, 4) * np.array([0.04, 0.04, 0.03, 0.03])
        self._lens = Lens(
            noise=rng.uniform(0, 7) * hard,
            blur_px=rng.uniform(0.4, 1.2) * (width / 128) if rng.random() < 0.2 * hard else 0.0,
            gain=rng.uniform(0.65, 1.2),
            bias=rng.uniform(-15, 25),
            flicker=rng.uniform(0, 0.02) * hard,
            drift=rng.uniform(-0.25, 0.25) * hard,
            jpeg_quality=int(rng.integers(30, 90)) if rng.random() < 0.12 * hard else 0,
            occluder=occluder(rng, self._surfaces, width, height) if rng.random() < 0.06 * hard else None,
        )

    def _compose_distractors(self, rng: np.random.Generator, hard: float) -> None:
        """Others who move meanwhile, as people do before a camera that turns: large ones a little, small ones more.
        What a class is about is nearly always more than that."""
        alone = rng.random() > (0.6 if self.moves_view else 0.25) * hard
        count = 0 if alone else int(rng.integers(1, 4))
        largest = 0.35 if self.moves_view and self._forward != "still" else 0.15
        distractors = []
        for _ in range(count):
            radius = rng.uniform(0.06, largest)
            reach = min(0.3, 0.012 / radius**2) * (0.5 if self._forward == "still" else 1.0)
            ways = rng.normal(0, 1, (2, 4)) * reach * np.array([0.25, 0.25, 0.15, 0.5])
            place = affine(np.array([*rng.uniform(-0.5, 0.5, 2), np.log(radius), rng.uniform(0, 2 * np.pi)]))
            sprite = plain_sprite(rng, self._surfaces)
            distractors.append(_Distractor(sprite, place, *ways, rng.uniform(0.3, 1.5), rng.uniform(0, 2 * np.pi)))
        self._distractors = tuple(distractors)

    def _compose_surface(self, rng: np.random.Generator, ease: float, numbers: list[int]) -> None:
        """What fills the view. Where the view moves, it must show that it does: a blank wall is drawn again."""
        for _ in range(_DRAWS):
            self._surface = any_texture(rng, numbers)
            if self.moves_view and rng.random() < 0.4 * (1 - ease):
                self._surface = horizon(rng, self._surface, any_texture(rng, numbers))
            scale = rng.uniform(1.4, 3.2) if ease < 0.5 else rng.uniform(1.2, 2.0)
            turn = rng.uniform(0, 2 * np.pi) * (rng.random() < 0.5)
            self._base = affine(np.array([*rng.uniform(-0.5, 0.5, 2), np.log(scale), turn]))
            if not self.moves_view or detail(self._canvas.surface(self._surface, self._base)) > _LEAST_DETAIL:
                break
        if self._plain:
            self._surface = np.full_like(self._surface, self._surface[0, 0])

    def _clearest_sprite(self, rng: np.random.Generator) -> tuple[Part, ...]:
        """The clearest of three."""
        return max((self._any_sprite(rng) for _ in range(3)), key=lambda sprite: contrast(sprite, self._surface))

    def _any_sprite(self, rng: np.random.Generator) -> tuple[Part, ...]:
        # Some jointed sprites only move as a whole: being able to open must not give the class away.
        if self._forward == "open" or rng.random() < 0.2:
            return jointed_sprite(rng, self._surfaces)
        return plain_sprite(rng, self._surfaces, LONG_SHAPES if self._forward == "clockwise" else SHAPES)
