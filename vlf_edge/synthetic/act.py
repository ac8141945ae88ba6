"""Made-up acts: rendered people who move their limbs, alone or with each other, in ways that mean nothing.

An act is a motion of joints drawn from its number: which limbs go where, at what pace, whether they come back, stay or
repeat it, and what somebody who stands opposite does. No act is made after a real one. Telling them apart,
whoever does them, wherever, teaches a model to look at limbs: that is what people enrol actions on.
"""

from __future__ import annotations

import numpy as np

from ..opencv import load_cv2
from .clip import surfaces_of
from .person import AIR, ELBOW, HIP, KNEE, LEAN, OTHER, POSE, REST, SHOULDER, TURN, WALK, Person, draw
from .scene import Canvas, Drift, Lens, affine, any_texture, chain, horizon

ACTS = 72
_ARM, _LEG = slice(SHOULDER, ELBOW + 1), slice(HIP, KNEE + 1)
_KINDS = {"arm": 0.34, "arms": 0.16, "leg": 0.18, "body": 0.12, "way": 0.08, "arm and leg": 0.12}
_FORMS = {"return": 0.34, "stay": 0.2, "repeat": 0.2, "two poses": 0.13, "two poses, return": 0.13}
_PARTNERS = {"nobody": 0.3, "looks on": 0.15, "does the same": 0.3, "answers": 0.25}
_APPROACH_S = 0.8
# Of the clips of acts that arms do, so many show no legs; of those that one does alone, so many are seen from anywhere:
# from the front, as by the camera of a laptop, from the side or half from behind.
_CLOSE, _FROM_ANYWHERE = 0.2, 0.3


class Act:
    """Act ``number``: always the same motion.

    of_arms: whether it can be told without the legs. partner: of _PARTNERS, who stands opposite. distance: between the
    two, in heights. approach: how far those who act come closer first, in heights. lasts_s: seconds.
    """

    def __init__(self, number: int):
        rng = np.random.default_rng((number, 0xAC7))
        kind, self._form = _any(rng, _KINDS), _any(rng, _FORMS)
        self._one, self._two = _pose(rng, kind), _pose(rng, kind)
        if self._form == "repeat":
            self._two = self._one.copy()
            joints = {"leg": (SHOULDER, HIP, KNEE), "arm and leg": (SHOULDER, HIP, KNEE)}.get(kind, (0, 1, 2))
            joint = int(rng.choice((*joints, LEAN)))
            change = rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
            self._two[[joint, joint + OTHER] if kind == "arms" and joint != LEAN else joint] += change
        self._cycles, self._peak = rng.uniform(1.5, 3), rng.uniform(0.3, 0.55)
        self.lasts_s, self.distance = rng.uniform(0.6, 1.3), rng.uniform(0.3, 0.75)
        self.of_arms, self.partner = kind in ("arm", "arms"), _any(rng, _PARTNERS)
        self.approach = rng.uniform(0.2, 0.7) if self.partner != "nobody" and rng.random() < 0.5 else 0.0
        self._answer = REST.copy()
        self._answer[LEAN] = rng.choice([-1, 1]) * rng.uniform(0.15, 0.6)
        self._answer[WALK] = -rng.uniform(0.05, 0.4)
        if rng.random() < 0.5:
            self._answer[_ARM] = _arm(rng)
            self._answer[OTHER : OTHER + 3] = self._answer[_ARM]
        if rng.random() < 0.3:
            self._answer[_LEG] = _leg(rng)

    def poses(self, done: np.ndarray) -> np.ndarray:
        """(T,) share of it that is done, below 0 before it begins and above 1 after its end -> (T, 17)."""
        one, two = self._one - REST, self._two - self._one
        if self._form == "return":
            return REST + _outer(np.minimum(_step(done, 0, self._peak), 1 - _step(done, self._peak, 1)), one)
        if self._form == "stay":
            return REST + _outer(_step(done, 0, 0.7), one)
        if self._form == "repeat":
            wave = 0.5 - 0.5 * np.cos(2 * np.pi * self._cycles * np.maximum(0, done - 0.15))
            return REST + _outer(_step(done, 0, 0.2), one) + _outer(wave, two)
        if self._form == "two poses":
            return REST + _outer(_step(done, 0, 0.45), one) + _outer(_step(done, 0.45, 0.85), two)
        away = _outer(_step(done, 0, 0.33), one) + _outer(_step(done, 0.33, 0.66), two)
        return REST + away * (1 - _step(done, 0.66, 1))[:, np.newaxis]

    def answer(self, after_s: np.ndarray) -> np.ndarray:
        """(T,) seconds after what is answered -> (T, 17)."""
        return REST + _outer(_step(after_s, 0, 0.35), self._answer - REST)

    @property
    def answered_s(self) -> float:
        """When it is answered, from its beginning."""
        return 0.6 * self._peak * self.lasts_s


class ActClip:
    """People who do act ``number`` (below ACTS), square. seed: of everything in it but the act. seconds: of the window
    that frames are taken from; most of the act is in it."""

    def __init__(self, number: int, seed: int, side_px: int, seconds: float = 2.0):
        rng = np.random.default_rng((seed, number, 0xAC7))
        self.number, self._seed, self._canvas = number, seed, Canvas(side_px, side_px)
        self._act, self._seconds = Act(number), seconds
        surfaces = surfaces_of(seed)
        self._compose_scene(rng, surfaces)
        self._compose_people(rng, surfaces)
        self._amplitude, self._pace = rng.uniform(0.8, 1.2, len(POSE)), rng.uniform(0.75, 1.35)
        lasts_s = self._act.lasts_s * self._pace
        spare_s, margin_s = seconds - lasts_s, 0.2 * lasts_s
        self._begins_s = rng.uniform(min(0, spare_s) - margin_s, max(0, spare_s) + margin_s)
        self._late_s = rng.uniform(0.05, 0.35)

    def render(self, times_s: np.ndarray) -> np.ndarray:
        """(T,) seconds from the beginning -> (T, side, side, 3) uint8 BGR."""
        drift = [affine(self._drift.at(t)) for t in times_s]
        images = np.stack([self._canvas.surface(self._surface, chain(jitter, self._base)) for jitter in drift])
        shaken = np.stack([jitter[:, 2] for jitter in drift])
        for person, poses, speeds in self._moves(times_s):
            strokes = person.strokes(poses, times_s, speeds)
            strokes.starts[:], strokes.ends[:] = strokes.starts + shaken, strokes.ends + shaken
            draw(images, strokes)
        exposed = []
        for image, t in zip(images, times_s):
            noise = np.random.default_rng((self._seed, round(1000 * float(t))))
            exposed.append(self._canvas.expose(image, self._lens, float(t) / self._seconds - 0.5, noise))
        return np.stack(exposed)

    def _moves(self, times_s: np.ndarray) -> list[tuple[Person, np.ndarray, np.ndarray]]:
        """Who is drawn, one over the other: poses (T, 17) and speeds (T,)."""
        act, since_s = self._act, times_s - self._begins_s
        lasts_s = act.lasts_s * self._pace
        came = np.clip(1 + since_s / _APPROACH_S, 0, 1)
        comes = np.where((came > 0) & (came < 1), act.approach / _APPROACH_S, 0.0)

        def acting(since_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            poses, soon = (act.poses((since_s + later) / lasts_s) for later in (0, 0.02))
            speeds = np.abs(soon[:, WALK] - poses[:, WALK]) / 0.02 + comes
            poses = REST + (poses - REST) * self._amplitude
            poses[:, WALK] += act.approach * (came - 1)
            return poses, speeds

        still, rest = np.zeros_like(times_s), np.tile(REST, (len(times_s), 1))
        moves = []
        for person, speed in self._bystanders:
            poses = rest.copy()
            poses[:, WALK] = speed * times_s
            moves.append((person, poses, still + abs(speed)))
        both = [(self._actor, *acting(since_s))]
        if act.partner == "does the same":
            both.append((self._partner, *acting(since_s - 0.3 * self._late_s)))
        elif act.partner == "answers":
            answer = act.answer(since_s - act.answered_s * self._pace - self._late_s)
            both.append((self._partner, REST + (answer - REST) * self._amplitude, still))
        elif act.partner == "looks on":
            both.append((self._partner, rest, still))
        return moves + (both if self._actor_behind else both[::-1])

    def _compose_people(self, rng: np.random.Generator, surfaces: range) -> None:
        act, height = self._act, rng.uniform(0.55, 0.92)
        facing, yaw = int(rng.choice([-1, 1])), rng.uniform(-0.7, 0.7)
        x, y = rng.uniform(-0.1, 0.1), 0.5 - rng.uniform(-0.05, 0.5) * (1 - height)
        if act.of_arms and rng.random() < _CLOSE:
            height = rng.uniform(1.0, 2.0)
            y = height - rng.uniform(0.25, 0.45)
        if act.partner == "nobody" and rng.random() < _FROM_ANYWHERE:
            yaw = rng.uniform(-1.9, 1.2)
        apart = min(0.75, act.distance * height * rng.uniform(0.85, 1.15))
        if act.partner == "nobody":
            x, apart = x + rng.uniform(-0.15, 0.15), 0.0
        self._actor = Person(rng, surfaces, height, (x - facing * apart / 2, y), facing, yaw)
        self._partner = None
        if act.partner != "nobody":
            place = (x + facing * apart / 2, y + rng.uniform(-0.02, 0.02))
            self._partner = Person(rng, surfaces, height * rng.uniform(0.9, 1.1), place, -facing, -yaw)
        self._actor_behind = bool(rng.random() < 0.5)
        some = rng.random() < (0.3 if act.partner == "nobody" else 0.15)
        self._bystanders = []
        for _ in range(int(rng.integers(1, 3)) if some else 0):
            place = (rng.uniform(-0.5, 0.5), y - rng.uniform(0.02, 0.1))
            size, turn = height * rng.uniform(0.5, 0.9), rng.uniform(-1.5, 1.5)
            bystander = Person(rng, surfaces, size, place, int(rng.choice([-1, 1])), turn)
            self._bystanders.append((bystander, rng.uniform(-0.15, 0.15) if rng.random() < 0.5 else 0.0))

    def _compose_scene(self, rng: np.random.Generator, surfaces: range) -> None:
        cv2, side_px = load_cv2(), self._canvas.short
        surface = any_texture(rng, surfaces)
        if rng.random() < 0.6:
            surface = horizon(rng, surface, any_texture(rng, surfaces))
        if rng.random() < 0.6:  # most places are plain
            share = rng.uniform(0.1, 0.6)
            surface = cv2.addWeighted(surface, share, np.full_like(surface, rng.integers(30, 230)), 1 - share, 0)
        self._surface = surface
        self._base = affine(np.array([*rng.uniform(-0.4, 0.4, 2), np.log(rng.uniform(1.2, 2.6)), 0.0]))
        size = 0.004 * rng.random() * rng.normal(size=(4, 3))
        self._drift = Drift(size, rng.uniform(0, 2 * np.pi, (4, 3)), rng.uniform(0.2, 2.5, (4, 3)))
        self._lens = Lens(
            noise=rng.uniform(0, 7),
            blur_px=rng.uniform(0.4, 1.4) * (side_px / 128) if rng.random() < 0.3 else 0.0,
            gain=rng.uniform(0.65, 1.2),
            bias=rng.uniform(-15, 25),
            flicker=rng.uniform(0, 0.02),
            drift=rng.uniform(-0.15, 0.15),
            jpeg_quality=int(rng.integers(30, 90)) if rng.random() < 0.15 else 0,
        )


def _any(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _arm(rng: np.random.Generator) -> tuple[float, float, float]:
    """Shoulder, shoulder outwards, elbow of an arm that is raised, or stretched back."""
    shoulder = rng.uniform(0.4, 2.9) if rng.random() < 0.8 else rng.uniform(-0.9, -0.3)
    out = rng.uniform(-0.3, 1.3) if rng.random() < 0.5 else rng.uniform(-0.1, 0.3)
    return shoulder, out, rng.uniform(0, 2.3) if rng.random() < 0.6 else rng.uniform(0, 0.3)


def _leg(rng: np.random.Generator) -> tuple[float, float, float]:
    """Hip, hip outwards, knee of a leg that is raised, or stretched back."""
    hip = rng.uniform(0.5, 1.7) if rng.random() < 0.75 else rng.uniform(-0.9, -0.4)
    return hip, rng.uniform(0, 0.6), rng.uniform(0, 1.9) if rng.random() < 0.6 else rng.uniform(0, 0.2)


def _pose(rng: np.random.Generator, kind: str) -> np.ndarray:
    """(17,) where an act of that kind goes."""
    pose, both = REST.copy(), slice(OTHER, OTHER + 3)
    if kind in ("arm", "arms", "arm and leg"):
        pose[_ARM] = _arm(rng)
    if kind == "arms":
        pose[both] = pose[_ARM] if rng.random() < 0.7 else _arm(rng)
    if kind in ("leg", "arm and leg") or (kind == "arm" and rng.random() < 0.2):
        pose[_LEG] = _leg(rng)
    if kind == "leg" and rng.random() < 0.4:
        pose[both] = _arm(rng)
    if kind == "body":
        pose[LEAN] = rng.uniform(0.4, 1.5) if rng.random() < 0.6 else rng.uniform(-0.5, -0.2)
        if rng.random() < 0.6:  # the knees give way
            pose[[HIP, HIP + OTHER]] = hip = rng.uniform(0.5, 1.6)
            pose[[KNEE, KNEE + OTHER]] = hip * rng.uniform(1.2, 1.9)
        if rng.random() < 0.4:
            pose[_ARM] = pose[both] = _arm(rng)
        if rng.random() < 0.25:
            pose[AIR] = rng.uniform(0.1, 0.25)
    elif rng.random() < 0.5:
        pose[LEAN] = rng.uniform(-0.35, 0.6)
    if kind == "way":
        pose[WALK] = rng.uniform(0.3, 0.9) * rng.choice([-1, 1])
        if rng.random() < 0.5:
            pose[_ARM] = _arm(rng)
    elif rng.random() < 0.3:
        pose[WALK] = rng.uniform(-0.25, 0.4)
    if rng.random() < 0.15:
        pose[TURN] = rng.uniform(-1, 1)
    return pose


def _step(at: np.ndarray, begin: float, end: float) -> np.ndarray:
    """From 0 at ``begin`` to 1 at ``end``, smoothly."""
    share = np.clip((at - begin) / (end - begin), 0, 1)
    return share * share * (3 - 2 * share)


_outer = np.multiply.outer
