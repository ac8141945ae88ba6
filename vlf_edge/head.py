"""Head: what a plan decides by, where that is not its model's last layer: labels that were enrolled, and "unknown".

A head is a few arrays of numbers beside the graphs. The runtime applies it in NumPy to what the last stage gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import PlanError
from .json_fields import checked, listed, number, text

UNKNOWN = "unknown"  # the label of what is none of the others
READS = (("features",), ("logits",), ("features", "logits"))
MAX_HEAD_BYTES = 1 << 20  # of all its arrays; those of vlf-tiny take 80 to 160 kB
MAX_ARRAYS = 16
MAX_SIZE = 1 << 18  # of one axis of an array
MAX_CLASSES = 100_000
_ITEM_BYTES = 4


@dataclass(frozen=True)
class HeadArray:
    """One array of a head. name: what it is. member: of the plan. shape: of its little-endian float32 values."""

    name: str
    member: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the member."""
        return math.prod(self.shape) * _ITEM_BYTES


@dataclass(frozen=True)
class HeadInfo:
    """What a manifest says of a head.

    reads: roles of the outputs of the last stage that it reads, side by side in this order: one of READS.
    classes: names of the logits. kept: which of them it decides between as the model does, by number.
    unknown: whether its last label is UNKNOWN. arrays: see ``Head``. record: how it came to be, free in form.
    """

    reads: tuple[str, ...]
    classes: tuple[str, ...]
    kept: tuple[int, ...] = ()
    unknown: bool = True
    arrays: tuple[HeadArray, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def by_windows(self) -> bool:
        """Whether a clip is decided about by the windows that a stream of it has, as the labels were taught: frames
        spread over a clip of another length look otherwise."""
        return "features" in self.reads

    def enrolled(self, labels: Sequence[str]) -> int:
        """How many of the plan's labels were enrolled: they come first, then those kept, then UNKNOWN."""
        return len(labels) - len(self.kept) - self.unknown

    def array(self, name: str) -> HeadArray | None:
        """The entry of that name, None if there is none."""
        return next((array for array in self.arrays if array.name == name), None)

    def check(self, labels: Sequence[str]) -> None:
        """Raises PlanError unless all of it fits together, and the plan's labels."""
        enrolled, rows = self.enrolled(labels), 0
        if "features" in self.reads:
            rows = enrolled + len(self.kept) + self.unknown
        weight, bias = (self.array(name) for name in ("weight", "bias"))
        sound = (
            self.reads in READS
            and (enrolled > 0) == ("features" in self.reads)
            and bool(self.kept) == ("logits" in self.reads)
            and len(set(self.kept)) == len(self.kept)
            and all(0 <= number < len(self.classes) for number in self.kept)
            and (not self.unknown or labels[-1] == UNKNOWN)
            and UNKNOWN not in labels[: len(labels) - self.unknown]
            and (weight is None) == (rows == 0)
            and (weight is None or (len(weight.shape) == 2 and weight.shape[0] == rows))
            and (bias.shape if bias else (0,)) == ((rows or int(self.unknown)),)
            and len({array.name for array in self.arrays}) == len(self.arrays)
            and sum(array.size_bytes for array in self.arrays) <= MAX_HEAD_BYTES
        )
        if not sound:
            raise PlanError(
                f"not a sound vlf.plan: its head, which reads {' and '.join(self.reads) or 'nothing'}, does not fit "
                f"{len(labels)} labels, or its arrays do not fit each other"
            )


class Head:
    """A head with its arrays, ready to decide.

    It makes logits of what it reads: features f (D,), the model's logits l (C,), or f and then l in one row.

        enrolled labels   weight f + bias, a row each: (E, D) and (E,)
        kept classes      log softmax of the l of those kept; beside enrolled labels, plus log sum exp of as many rows
                          of weight f + bias, which say how much it is one of them at all
        UNKNOWN           the last row; of a head that reads logits alone, log sum exp of the kept l + bias: it then
                          wins where no probability reaches exp(bias)

    arrays: "weight" (rows, D) and "bias" (rows,) float32; others are what enrolling again needs: enrolment/memory.py.
    """

    def __init__(self, info: HeadInfo, labels: Sequence[str], arrays: Mapping[str, np.ndarray]):
        info.check(labels)
        self.info, self.labels, self.arrays = info, tuple(labels), dict(arrays)
        for name, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise PlanError(f"not a sound vlf.plan: array {name!r} of its head holds NaN or infinity")
        self._enrolled = info.enrolled(labels)
        self._kept = np.array(info.kept, np.int64)
        self._weight, self._bias = self.arrays.get("weight"), self.arrays.get("bias", np.zeros(0, np.float32))
        self._features = 0 if self._weight is None else self._weight.shape[1]

    def members(self) -> dict[str, bytes]:
        """The arrays as members of a plan."""
        return {one.member: self.arrays[one.name].astype("<f4").tobytes() for one in self.info.arrays}

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """values (..., D + C), what the head reads, any float type -> logits (..., labels) float32."""
        values = values.astype(np.float32, copy=False)
        if self._weight is None:
            kept = values[..., self._kept]
            unknown = [_log_sum_exp(kept) + self._bias] if self.info.unknown else []
            return np.concatenate([kept, *unknown], axis=-1)
        # A sum for each row, not one product: a batch then gives the bits of its items.
        rows = np.einsum("...d,rd->...r", values[..., : self._features], self._weight) + self._bias
        if len(self._kept) == 0:
            return rows
        kept, end = values[..., self._features + self._kept], self._enrolled + len(self._kept)
        kept = kept - _log_sum_exp(kept) + _log_sum_exp(rows[..., self._enrolled : end])
        return np.concatenate([rows[..., : self._enrolled], kept, rows[..., end:]], axis=-1)


def head_from_json(raw: dict[str, Any]) -> HeadInfo:
    """Raises TypeError, ValueError or KeyError for the entry that is wrong."""
    arrays = tuple(
        HeadArray(
            name=text(one["name"], "name of an array"),
            member=text(one["member"], "member"),
            shape=tuple(number(size, "size of an array", 1, MAX_SIZE) for size in listed(one["shape"], "axes", 2)),
        )
        for one in listed(raw["arrays"], "arrays of a head", MAX_ARRAYS, least=0)
    )
    if type(raw["unknown"]) is not bool:
        raise TypeError(f"unknown of the head is {type(raw['unknown']).__name__}, expected bool")
    return HeadInfo(
        reads=tuple(text(role, "role") for role in listed(raw["reads"], "roles that a head reads", 2)),
        classes=tuple(text(label, "class") for label in listed(raw["classes"], "classes", MAX_CLASSES)),
        kept=tuple(
            number(one, "kept class", 0, MAX_CLASSES - 1) for one in listed(raw["kept"], "kept", MAX_CLASSES, least=0)
        ),
        unknown=raw["unknown"],
        arrays=arrays,
        record=checked(raw["record"], dict, "record of the head"),
    )


def array_from_bytes(entry: HeadArray, data: bytes) -> np.ndarray:
    """The float32 values of a member. Raises PlanError if they are not as many as the entry says."""
    if len(data) != entry.size_bytes:
        raise PlanError(f"{entry.member} has {len(data)} bytes, but its shape {entry.shape} takes {entry.size_bytes}")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(entry.shape)


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
