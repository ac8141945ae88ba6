"""What clips teach: a row of weights for each label, and when to believe them, from clips that were left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..head import UNKNOWN
from .clips import TaughtClip
from .discriminant import Clip, Statistics, left_out
from .kept import KeptClip
from .memory import NONE_CLIPS, STILL_FRAMES, Taught, arrays_of, condensed
from .open_set import enough, fit_temperature, upper_bound

log = logging.getLogger(__name__)
MISSES = 0.05  # of the windows of one's own clips: what UNKNOWN may cost where no clips of other things were given
KEPT_LOSS = 0.005  # of the windows of kept classes: what may be taken for something new


@dataclass(frozen=True)
class Lesson:
    """A head to be. Fields are those of ``HeadInfo``; arrays: by name, float32."""

    labels: tuple[str, ...]
    reads: tuple[str, ...]
    kept: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]
    unknown: bool = True


@dataclass(frozen=True)
class Rows:
    """Numbers of the head's rows. enrolled: how many labels come first. gate: the row that says that it is a class of
    the model; None without kept classes. unknown: the last."""

    enrolled: int
    gate: int | None

    @property
    def unknown(self) -> int:
        return self.enrolled + (self.gate is not None)

    @property
    def count(self) -> int:
        return self.unknown + 1


def teach(
    before: Taught,
    labels: Sequence[str],
    taught: Sequence[TaughtClip],
    kept: Sequence[KeptClip],
    classes: Sequence[str],
    false_accepts: float,
) -> Lesson:
    """A head for ``labels``, the earlier ones first.

    taught: the new clips. kept: clips of all the model's classes, if they are to stay from now on; classes: their
    labels. Those that stay already stay.
    """
    keeps = tuple(range(len(classes))) if kept else before.kept
    kept_labels = tuple(classes) if kept else before.kept_labels
    rows = Rows(len(labels), len(labels) if keeps else None)
    from_clips = before.unknown_from_clips or any(clip.label == UNKNOWN for clip in taught)
    statistics = _renumbered(before, rows)
    clips = _clips(taught, kept, {**{label: n for n, label in enumerate(labels)}, UNKNOWN: rows.unknown}, rows)
    size = statistics.means.shape[1]
    clips = [Clip(clip.name, clip.label, clip.windows[:, :size]) for clip in clips]
    for clip in clips:
        statistics = statistics.with_clip(clip)
    weight, bias = statistics.fit(rows.count)
    unseen = Unseen.of(statistics, clips, rows)
    shifts, found = unseen.thresholds(false_accepts, from_clips)
    arrays = {
        "weight": weight / unseen.temperature,
        "bias": bias / unseen.temperature + shifts,
        **arrays_of(condensed(statistics)),
    }
    counts = [int(statistics.counts[statistics.labels == row].sum()) for row in range(rows.count)]
    record = {
        "unknown_from": NONE_CLIPS if from_clips else STILL_FRAMES,
        "temperature": round(unseen.temperature, 4),
        "labels": {
            label: {"clips": counts[row], "left_out_right": unseen.right(row, shifts)}
            for row, label in enumerate(labels)
        },
        "unknown_clips": counts[rows.unknown],
        **found,
        "misses": unseen.misses(shifts),
    }
    if keeps:
        record["kept"] = unseen.kept(shifts, kept) if kept else before.record.get("kept")
    return Lesson(
        labels=(*labels, *kept_labels, UNKNOWN),
        reads=("features", "logits") if keeps else ("features",),
        kept=keeps,
        arrays={name: np.asarray(array, np.float32) for name, array in arrays.items()},
        record=record,
    )


def _clips(taught: Sequence[TaughtClip], kept: Sequence[KeptClip], row_of: Mapping[str, int], rows: Rows) -> list[Clip]:
    """All new clips by row. Those of UNKNOWN that were read as still frames are clips of their own."""
    clips = [Clip(clip.name, row_of[clip.label], clip.windows) for clip in taught]
    clips += [Clip(clip.name, rows.unknown, clip.reading.still) for clip in taught if len(clip.reading.still)]
    return clips + [Clip(clip.name, rows.gate or 0, clip.windows) for clip in kept]


def _renumbered(before: Taught, rows: Rows) -> Statistics:
    """What was taught before, with the numbers that the rows have now."""
    statistics, earlier = before.statistics, len(before.labels)
    last = earlier + bool(before.kept)
    numbers = [*range(earlier), *([rows.gate or 0] if before.kept else []), rows.unknown]
    table = np.array(numbers if len(statistics.means) else [0] * (last + 1))
    return Statistics(statistics.means, table[statistics.labels], statistics.counts, statistics.scatter)


@dataclass(frozen=True)
class Unseen:
    """What is said of clips by heads that were not taught with them. clips, logits: (n, rows) of the windows of each,
    divided by the temperature. rows: the head's."""

    clips: Sequence[Clip]
    logits: Sequence[np.ndarray]
    temperature: float
    rows: Rows

    @classmethod
    def of(cls, statistics: Statistics, clips: Sequence[Clip], rows: Rows) -> Unseen:
        """clips: the newest of those in the statistics, in order."""
        found = list(left_out(statistics, list(clips), rows.count))
        temperature = fit_temperature([z for _, z in found], [clip.label for clip, _ in found])
        return cls([clip for clip, _ in found], [z / temperature for _, z in found], temperature, rows)

    def thresholds(self, false_accepts: float, from_clips: bool) -> tuple[np.ndarray, dict[str, Any]]:
        """(what to add to each row's logits, what the record says of it)."""
        shifts = np.zeros(self.rows.count)
        if self.rows.gate is not None:
            z = self._of({self.rows.gate})
            if len(z):
                others = np.delete(z, self.rows.gate, axis=1).max(axis=1)
                shifts[self.rows.gate] = max(0.0, upper_bound(others - z[:, self.rows.gate], KEPT_LOSS))
        of_labels, of_nothing = self._of({*range(self.rows.enrolled)}), self._of({self.rows.unknown})
        found: dict[str, Any] = {"none_windows": len(of_nothing) if from_clips else 0}
        if from_clips and len(of_nothing):
            shifts[-1] = upper_bound(self._margin(of_nothing), false_accepts)
            found |= {"false_accepts_asked": false_accepts, "false_accepts": self._accepted(of_nothing, shifts)}
            if not enough(len(of_nothing), false_accepts):
                log.warning(
                    "the clips of nothing have %d windows, too few to hold false accepts to %g of them: that takes %d; "
                    "the one most like a label sets the threshold",
                    len(of_nothing),
                    false_accepts,
                    math.ceil(1 / false_accepts - 1),
                )
        elif not from_clips and len(of_labels):
            shifts[-1] = -upper_bound(-self._margin(of_labels), MISSES)
        return shifts, found

    def right(self, row: int, shifts: np.ndarray) -> float | None:
        """The share of a label's clips that were decided right, by the mean of their windows' probabilities; None if
        there was none to tell."""
        decided = [
            np.mean(_softmax(z + shifts), axis=0).argmax() == row
            for clip, z in zip(self.clips, self.logits)
            if clip.label == row
        ]
        return round(float(np.mean(decided)), 4) if decided else None

    def misses(self, shifts: np.ndarray) -> float | None:
        """The share of windows of the labels that UNKNOWN takes; None if there was none to tell."""
        z = self._of({*range(self.rows.enrolled)})
        return round(float((self._margin(z) <= shifts[-1]).mean()), 4) if len(z) else None

    def kept(self, shifts: np.ndarray, clips: Sequence[KeptClip]) -> dict[str, Any]:
        """How many windows of the model's own classes it decides right by itself, and beside the new labels."""
        size = len(self.clips[0].windows[0]) if self.clips else 0
        logits = [z for clip, z in zip(self.clips, self.logits) if clip.label == self.rows.gate and clip.name]
        before, after = [], []
        for clip, z in zip(clips, logits):
            right = clip.windows[:, size:].argmax(axis=1) == clip.label
            stays = (z + shifts).argmax(axis=1) == self.rows.gate
            before.append(right.mean())
            after.append((right & stays).mean())
        return {"clips": len(before), "right_before": _share(before), "right": _share(after)}

    def _of(self, labels: set[int]) -> np.ndarray:
        """(n, rows): the windows of these rows' clips."""
        found = [z for clip, z in zip(self.clips, self.logits) if clip.label in labels]
        return np.concatenate(found) if found else np.zeros((0, self.rows.count))

    def _margin(self, z: np.ndarray) -> np.ndarray:
        """(n,): by how much the best of the labels exceeds UNKNOWN."""
        return z[:, : self.rows.enrolled].max(axis=1) - z[:, -1]

    def _accepted(self, z: np.ndarray, shifts: np.ndarray) -> float:
        return round(float((self._margin(z) > shifts[-1]).mean()), 5)


def _share(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _softmax(z: np.ndarray) -> np.ndarray:
    exponents = np.exp(z - z.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)
