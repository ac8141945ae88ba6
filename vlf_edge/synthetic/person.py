"""A rendered person: textured limbs that hang together at joints, posed by angles and seen from any side.

Lengths are shares of the body's height, angles radians. A pose is (17,): for the far side and then the near one (which
is which, a person draws) shoulder, shoulder outwards, elbow, hip, hip outwards, knee; then as ``POSE`` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..opencv import load_cv2
from .scene import any_texture

SIDE = ("shoulder", "shoulder out", "elbow", "hip", "hip out", "knee")
POSE = (*SIDE, *SIDE, "lean", "bend", "turn", "air", "walk")
SHOULDER, SHOULDER_OUT, ELBOW, HIP, HIP_OUT, KNEE = range(6)
OTHER = len(SIDE)  # joints of the other side come so much later
LEAN, BEND, TURN, AIR, WALK = range(2 * OTHER, len(POSE))
"""lean: forwards. bend: sideways. turn: about the vertical. air: how high above the ground, walk: how far forwards, in
heights."""
REST = np.array([0.05, 0.12, 0.2, 0, 0.06, 0.05] * 2 + [0.0] * 5)
_ANGLES = slice(0, TURN)
_TEXTURE_PX = 32
_SKINS_BGR = ((140, 170, 220), (100, 130, 190), (60, 80, 120), (120, 150, 200))
_FROM_BEHIND = 1.0  # who is turned further shows no face
_FACE = 11  # its place among the limbs
_TILT = 0.12  # of the camera, which looks down a little: what is nearer stands lower in the picture


@dataclass(frozen=True)
class Strokes:
    """What is drawn, one over the other, in each of T images. textures: S of (h, w, 3) uint8, (1, 1, 3) for a disc.
    starts, ends: (S, T, 2), x and y in short sides. widths: (S, T)."""

    textures: Sequence[np.ndarray]
    starts: np.ndarray
    ends: np.ndarray
    widths: np.ndarray


class _Limb(NamedTuple):
    """texture: as of Strokes. begin, end: (T, 3) in the body's directions. width: (T,) or one for all."""

    texture: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    width: np.ndarray | float


class Person:
    """Looks and place are drawn from ``rng``. surfaces: the textures that clothes are cut from. height: in short sides.
    foot: (x, y) where it stands, in short sides from the image's centre. facing: 1 to the right, -1 to the left. yaw:
    how far it is turned from that, below 0 towards the camera, above 0 away from it."""

    def __init__(
        self,
        rng: np.random.Generator,
        surfaces: Sequence[int],
        height: float,
        foot: tuple[float, float],
        facing: int,
        yaw: float,
    ):
        self.height, self._foot, self._facing, self._yaw = height, np.array(foot), facing, yaw
        self._lengths = {
            "torso": rng.uniform(0.27, 0.32), "neck": rng.uniform(0.02, 0.045), "head": rng.uniform(0.055, 0.075),
            "upper arm": rng.uniform(0.15, 0.19), "forearm": rng.uniform(0.15, 0.19),
            "thigh": rng.uniform(0.21, 0.25), "shin": rng.uniform(0.22, 0.26),
            "shoulder": rng.uniform(0.08, 0.13), "hip": rng.uniform(0.05, 0.08),
        }  # fmt: skip
        self._widths = {
            "torso": rng.uniform(0.13, 0.22), "upper arm": rng.uniform(0.045, 0.075),
            "forearm": rng.uniform(0.04, 0.06), "thigh": rng.uniform(0.065, 0.1), "shin": rng.uniform(0.05, 0.075),
        }  # fmt: skip
        looks, shade = _looks(rng, surfaces), rng.uniform(0.6, 0.95)
        self._looks = {part: (texture * shade).astype(np.uint8) for part, texture in looks.items()}, looks  # far, near
        self._swapped = rng.random() < 0.5  # the far side does what the pose says of the near one
        self._habit = np.zeros(len(POSE))
        self._habit[_ANGLES] = rng.normal(0, 0.06, TURN)
        self._fidget = rng.normal(0, 0.05, TURN), rng.uniform(0.2, 1.2, TURN), rng.uniform(0, 6.3, TURN)
        self._gait_hz, self._gait_phase = rng.uniform(1.2, 2.2), rng.uniform(0, 2 * np.pi)

    def strokes(self, poses: np.ndarray, times_s: np.ndarray, speeds: np.ndarray) -> Strokes:
        """poses: (T, 17). times_s, speeds: (T,); a person who walks, in heights a second, moves arms and legs."""
        poses = self._stirred(poses, times_s, speeds)
        points, yaw, head_size = self._joints(poses), self._yaw + poses[:, TURN], self._lengths["head"]
        floor_y = np.maximum(*(self._in_picture(points["foot", side], yaw)[:, 1] for side in (0, 1)))
        limbs = [
            *self._arm(points, 0), *self._leg(points, 0), *self._leg(points, 1), *self._trunk(points, yaw),
            *self._arm(points, 1),
        ]  # fmt: skip
        textures, *ends, widths = zip(*limbs)
        places = [self._in_picture(np.stack(end), yaw) for end in ends]
        looks_to = np.stack([0.35 * np.cos(yaw), np.zeros_like(yaw), np.full_like(yaw, 0.2)], axis=1) * head_size
        for place in places:  # the face: in front of the head, in the picture's own directions
            place[_FACE] += self._in_picture(looks_to, np.zeros_like(yaw))
        up = floor_y + poses[:, AIR]
        root = self._foot + self.height * np.stack([self._facing * poses[:, WALK] * np.cos(yaw), -up], axis=1)
        starts, ends = (root + self.height * place for place in places)
        sizes = np.stack([np.broadcast_to(width, len(poses)) for width in widths]) * self.height
        return Strokes(textures, starts, ends, sizes)

    def _arm(self, points: dict, side: int) -> list[_Limb]:
        looks, widths, hand = self._looks[side], self._widths, points["hand", side]
        return [
            _Limb(looks["upper arm"], points["shoulder", side], points["elbow", side], widths["upper arm"]),
            _Limb(looks["forearm"], points["elbow", side], hand, widths["forearm"]),
            _Limb(looks["skin"][:1, :1], hand, hand, 1.1 * widths["forearm"]),
        ]

    def _leg(self, points: dict, side: int) -> list[_Limb]:
        looks, widths, foot = self._looks[side], self._widths, points["foot", side]
        return [
            _Limb(looks["thigh"], points["hip", side], points["knee", side], widths["thigh"]),
            _Limb(looks["shin"], points["knee", side], foot, widths["shin"]),
            _Limb(looks["hair"], foot, foot + [0.07, 0, 0], 0.8 * widths["shin"]),  # a shoe
        ]

    def _trunk(self, points: dict, yaw: np.ndarray) -> list[_Limb]:
        looks, lengths, chest = self._looks[1], self._lengths, points["chest"]
        head = chest + (chest - points["pelvis"]) / lengths["torso"] * (lengths["neck"] + lengths["head"])
        face = looks["skin" if self._yaw < _FROM_BEHIND else "hair"]
        return [
            _Limb(looks["torso"], chest, points["pelvis"], self._widths["torso"] * (0.55 + 0.8 * np.abs(np.sin(yaw)))),
            _Limb(looks["hair"][:1, :1], head, head, 2.1 * lengths["head"]),
            _Limb(face[:1, :1], head, head, 1.6 * lengths["head"]),
        ]

    def _stirred(self, poses: np.ndarray, times_s: np.ndarray, speeds: np.ndarray) -> np.ndarray:
        """With what nobody does alike: habits, fidgeting, a gait."""
        poses = poses + self._habit
        size, rate_hz, phase = self._fidget
        poses[:, _ANGLES] += size * np.sin(2 * np.pi * rate_hz * times_s[:, np.newaxis] + phase)
        if self._swapped:
            poses[:, :LEAN] = np.concatenate([poses[:, OTHER:LEAN], poses[:, :OTHER]], axis=1)
        share = np.where(speeds > 0.05, np.minimum(1.0, speeds / 0.3), 0.0)
        swing = share * np.sin(2 * np.pi * self._gait_hz * times_s + self._gait_phase)
        for side, way in ((0, 1), (OTHER, -1)):
            poses[:, side + HIP] += 0.5 * way * swing
            poses[:, side + KNEE] += 0.5 * np.maximum(0.0, -way * swing)
            poses[:, side + SHOULDER] -= 0.2 * way * swing
        return poses

    def _joints(self, poses: np.ndarray) -> dict:
        """{name, or (name, side): (T, 3) forwards, to the near side, down}, from the pelvis, in heights."""
        lean, bend, lengths = poses[:, LEAN], poses[:, BEND], self._lengths
        up = np.stack([np.sin(lean) * np.cos(bend), -np.sin(bend), -np.cos(lean) * np.cos(bend)], axis=1)
        pelvis = np.zeros_like(up)
        chest = pelvis + lengths["torso"] * up
        points: dict = {"pelvis": pelvis, "chest": chest}
        for side, way in ((0, -1), (1, 1)):
            of = poses[:, OTHER * side : OTHER * (side + 1)].T
            hip = pelvis + [0, way * lengths["hip"], 0]
            knee = hip + lengths["thigh"] * _hanging(of[HIP], of[HIP_OUT], way)
            foot = knee + lengths["shin"] * _hanging(of[HIP] - np.maximum(0, of[KNEE]), 0.5 * of[HIP_OUT], way)
            shoulder = chest + [0, way * lengths["shoulder"], 0.02]
            raised = of[SHOULDER] - 0.3 * lean
            elbow = shoulder + lengths["upper arm"] * _hanging(raised, of[SHOULDER_OUT], way)
            bent = raised + np.maximum(-0.1, of[ELBOW])
            hand = elbow + lengths["forearm"] * _hanging(bent, 0.7 * of[SHOULDER_OUT], way)
            names = ("hip", "knee", "foot", "shoulder", "elbow", "hand")
            points |= {(name, side): at for name, at in zip(names, (hip, knee, foot, shoulder, elbow, hand))}
        return points

    def _in_picture(self, at: np.ndarray, yaw: np.ndarray) -> np.ndarray:
        """(..., T, 3) in the body's directions -> (..., T, 2) x and y."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        forwards, near, down = np.moveaxis(at, -1, 0)
        x = self._facing * (forwards * cos + near * sin)
        return np.stack([x, down + _TILT * (near * cos - forwards * sin)], axis=-1)


def draw(images: np.ndarray, strokes: Strokes) -> None:
    """Into (T, side, side, 3) uint8, in place."""
    cv2, side = load_cv2(), images.shape[1]
    starts, ends = ((side * (of + 0.5)) for of in (strokes.starts, strokes.ends))
    widths = side * strokes.widths
    along = ends - starts
    reach = np.linalg.norm(along, axis=-1, keepdims=True)
    along = np.where(reach > 1e-6, along / np.maximum(reach, 1e-6), [0.0, 1.0])
    across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    begin = starts - 0.3 * widths[..., np.newaxis] * along  # limbs overlap where they are joined
    length = reach[..., 0] + 0.6 * widths
    half = 0.5 * widths[..., np.newaxis] * across
    corners = np.stack([begin + way * half + far * along for way in (-1, 1) for far in (0, length[..., np.newaxis])])
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, side)
    boxes = np.concatenate([low, high], axis=-1).tolist()
    cells = np.array([texture.shape[1::-1] for texture in strokes.textures])[:, np.newaxis]  # columns, rows
    columns = [across * (widths / cells[..., 0])[..., np.newaxis], along * (length / cells[..., 1])[..., np.newaxis]]
    matrices = np.stack([*columns, begin - half - low], axis=-1)
    discs = np.round(8 * np.concatenate([starts, widths[..., np.newaxis] / 2], axis=-1)).astype(int).tolist()
    for number, texture in enumerate(strokes.textures):
        colour = texture[0, 0].tolist()
        for t, image in enumerate(images):
            left, top, right, bottom = boxes[number][t]
            if left >= right or top >= bottom:
                continue
            if len(texture) == 1:
                x, y, radius = discs[number][t]
                cv2.circle(image, (x, y), max(8, radius), colour, -1, cv2.LINE_8, 3)
                continue
            cv2.warpAffine(
                texture,
                matrices[number, t],
                (right - left, bottom - top),
                dst=image[top:bottom, left:right],
                flags=cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_TRANSPARENT,
            )


def _hanging(angle: np.ndarray, out: np.ndarray, way: int) -> np.ndarray:
    """(T, 3): where a limb points that hangs at 0."""
    return np.stack([np.sin(angle) * np.cos(out), way * np.sin(out), np.cos(angle) * np.cos(out)], axis=1)


def _looks(rng: np.random.Generator, surfaces: Sequence[int]) -> dict[str, np.ndarray]:
    """Part -> texture."""
    top, bottom = _cloth(rng, surfaces), _cloth(rng, surfaces)
    skin = _plain(np.array(_SKINS_BGR[rng.integers(len(_SKINS_BGR))]) + rng.normal(0, 12, 3))
    hair = _plain(rng.uniform(0, 130, 3) if rng.random() < 0.8 else rng.uniform(80, 230, 3))
    return {
        "torso": top,
        "upper arm": top if rng.random() < 0.9 else skin,
        "forearm": top if rng.random() < 0.7 else skin,
        "thigh": bottom,
        "shin": bottom if rng.random() < 0.85 else skin,
        "skin": skin,
        "hair": hair,
    }


def _plain(colour: np.ndarray) -> np.ndarray:
    return np.full((_TEXTURE_PX, _TEXTURE_PX, 3), np.clip(colour, 0, 255), np.uint8)


def _cloth(rng: np.random.Generator, surfaces: Sequence[int]) -> np.ndarray:
    cv2, texture = load_cv2(), any_texture(rng, surfaces)
    side = int(rng.integers(48, 200))
    top, left = rng.integers(0, len(texture) - side, 2)
    cut = cv2.resize(
        texture[top : top + side, left : left + side], (_TEXTURE_PX, _TEXTURE_PX), interpolation=cv2.INTER_AREA
    )
    if rng.random() < 0.65:  # mostly of one colour
        share = rng.uniform(0.05, 0.35)
        cut = cv2.addWeighted(cut, share, np.full_like(cut, rng.integers(0, 256, 3)), 1 - share, 0)
    return cut
