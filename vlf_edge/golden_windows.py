"""Golden windows: a few windows of images that travel in a plan, and what its fp32 graphs answer to them.

An engine that was compiled on another machine, or by another version of its library, is held to them where it starts:
it may be off by what its precision costs, and no more. docs/plan.md describes the two members that hold them.

The images are real ones, of the clips that the plan was calibrated or measured on: ``vlf-edge build
--no-golden-windows`` leaves them out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import strict_json
from .errors import PlanError
from .manifest import Manifest
from .plan import Plan

ABOUT, FRAMES = "golden.json", "golden.frames"  # the members
WINDOWS = 16  # in a plan, where they are not too large
MAX_WINDOWS = 64
MAX_FRAME_BYTES = 64 << 20  # of all their images
_MAX_LOGITS = 500_000  # as numbers in JSON
_DIGITS = 6
# How far off the logits may be, as a share of them, where the build measured less: GPUs compute float32 in TF32, and
# CPUs float16 in bfloat16.
_RELATIVE = {"fp32": 0.02, "fp16": 0.05, "int8": 0.1}
_WORSE = 3.0  # than the worst that the build measured


@dataclass(frozen=True)
class GoldenWindows:
    """frames: (F, H, W, 3) uint8 BGR, as the model takes them. windows: (n, K) integers, indices into frames, oldest
    first; any first few of them are as different as all are. logits: (n, C) float32, of the fp32 graphs.
    relative, max_abs: the worst errors that the build measured of the plan's own precision, end to end: of the norm of
    all logits, and of one logit. precision: of the plan.
    """

    frames: np.ndarray
    windows: np.ndarray
    logits: np.ndarray
    relative: float
    max_abs: float
    precision: str

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The windows as images, (K, H, W, 3) uint8 each."""
        return (self.frames[window] for window in self.windows)

    @property
    def allowed(self) -> float:
        """The largest relative error of the logits that is still this plan's."""
        return max(_RELATIVE[self.precision], _WORSE * self.relative)

    def right(self, logits: np.ndarray) -> int:
        """How many of the answers (m, C) to the first m windows decide as fp32 does, but for near ties."""
        return len(logits) - int(self._otherwise(logits).sum())

    def fault(self, logits: np.ndarray) -> str:
        """What is wrong with the answers (m, C) to the first m windows, in words; "" if an engine that passed the
        plan's gate can give them.

        Wrong is what is no number; logits further off than ``allowed``; and more than a quarter of the windows decided
        otherwise though fp32 was sure. The gate asks for agreement on nine windows of ten, with which so many differ at
        most once in twenty times. fp32 is not sure where errors as large as the build measured can turn its decision.
        """
        known = self.logits[: len(logits)].astype(np.float64)
        if not np.isfinite(logits).all():
            return "its answers are no numbers"
        off = float(np.linalg.norm(logits - known) / max(np.linalg.norm(known), 1e-12))
        differ = int(self._otherwise(logits).sum())
        if differ > len(logits) / 4:
            return f"it decides {differ} of {len(logits)} windows otherwise, and its logits are off by {off:.1%}"
        if off > self.allowed:
            return f"its logits are off by {off:.1%}, at most {self.allowed:.1%} are allowed in {self.precision}"
        return ""

    def _otherwise(self, logits: np.ndarray) -> np.ndarray:
        """(m,) bool: which answers decide otherwise than fp32 where fp32 was sure."""
        known = self.logits[: len(logits)].astype(np.float64)
        rows, picked = np.arange(len(known)), np.nan_to_num(logits, nan=-np.inf).argmax(axis=1)
        margin = known.max(axis=1) - known[rows, picked]
        spread = known.max(axis=1) - known.mean(axis=1)
        sure = 2 * np.maximum(self.max_abs, _RELATIVE[self.precision] * spread)
        return (margin > sure) | ~np.isfinite(logits).all(axis=1)


def choose(windows: np.ndarray, classes: int, frame_bytes: int) -> np.ndarray:
    """At most WINDOWS of windows (n, K), spread evenly over them and mixed; fewer where they would be too large.

    classes: C. frame_bytes: of one image.
    """
    most = min(WINDOWS, len(windows), _MAX_LOGITS // classes, MAX_FRAME_BYTES // (windows.shape[1] * frame_bytes))
    mixed = sorted(range(most), key=lambda i: i * 0.618034 % 1)  # neighbours end up far from each other
    return windows[[int((i + 0.5) * len(windows) / most) for i in mixed]]


def to_members(golden: GoldenWindows | None) -> dict[str, bytes]:
    """The members of a plan that hold golden windows; none for None."""
    if golden is None or not len(golden):
        return {}
    about = {
        "frames": len(golden.frames),
        "windows": golden.windows.tolist(),
        "logits": [[float(f"{value:.{_DIGITS}g}") for value in row] for row in golden.logits.tolist()],
        "measured": {"relative": golden.relative, "max_abs": golden.max_abs},
    }
    return {ABOUT: json.dumps(about, sort_keys=True, allow_nan=False).encode() + b"\n", FRAMES: _packed(golden.frames)}


def has_golden_windows(manifest: Manifest) -> bool:
    """Whether a plan has any, by its members alone."""
    return {ABOUT, FRAMES} <= set(manifest.members)


def read_golden(plan: Plan) -> GoldenWindows | None:
    """The golden windows of a plan, None if it has none. Raises PlanError if they are not as docs/plan.md says."""
    if not has_golden_windows(plan.manifest):
        return None
    try:
        return _read(plan.manifest, strict_json.parse(plan.read(ABOUT)), plan.read(FRAMES))
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, zlib.error) as error:
        raise PlanError(f"{plan.path} is damaged: its golden windows are not sound ({str(error)[:200]})") from None


def _read(manifest: Manifest, about: dict[str, Any], packed: bytes) -> GoldenWindows:
    size, count = manifest.preprocess, about["frames"]
    shape = (count, size.height_px, size.width_px, 3)
    if type(count) is not int or not 1 <= count <= MAX_FRAME_BYTES // (size.height_px * size.width_px * 3):
        raise ValueError(f"{str(count)[:40]} frames")
    windows = _array(about["windows"], manifest.sampling.frames, np.int64, (int,))
    logits = _array(about["logits"], len(manifest.classes), np.float32, (int, float))
    if len(windows) != len(logits) or windows.min() < 0 or windows.max() >= count or not np.isfinite(logits).all():
        raise ValueError(f"{len(windows)} windows of frames {windows.min()} to {windows.max()}, {len(logits)} answers")
    measured = {name: float(about["measured"][name]) for name in ("relative", "max_abs")}
    if not all(0 <= value < float("inf") for value in measured.values()):
        raise ValueError(f"errors of {measured}")
    return GoldenWindows(_unpacked(packed, shape), windows, logits, precision=manifest.precision, **measured)


def _array(rows: Sequence[Sequence[float]], length: int, dtype: type, kinds: tuple[type, ...]) -> np.ndarray:
    if not 1 <= len(rows) <= MAX_WINDOWS or any(len(row) != length for row in rows):
        raise ValueError(f"{len(rows)} rows, expected 1 to {MAX_WINDOWS} of {length}")
    if any(type(value) not in kinds for row in rows for value in row):
        raise TypeError("a row holds something else than numbers")
    with np.errstate(over="ignore"):  # infinities are refused
        return np.array(rows, dtype)


def _packed(frames: np.ndarray) -> bytes:
    """Each row of an image as its difference to the row above: some 15 % smaller."""
    rows = np.array(frames)
    rows[:, 1:] -= frames[:, :-1]
    return zlib.compress(rows.tobytes(), 6)  # 9 takes three times as long for one per cent


def _unpacked(packed: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
    size_bytes, unpacker = int(np.prod(shape)), zlib.decompressobj()
    data = unpacker.decompress(packed, size_bytes + 1)  # and no more, whatever the stream would grow to
    if len(data) != size_bytes or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"images of other than {size_bytes} bytes")
    return np.cumsum(np.frombuffer(data, np.uint8).reshape(shape), axis=1, dtype=np.uint8)
