"""What clips teach: a row of weights for each label, and when to believe them, from clips that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..head import UNKNOWN
from .clips import TaughtClip
from .discriminant import Clip, Statistics, left_out
from .kept import KeptClip
from .memory import NONE_CLIPS, STILL_FRAMES, Taught, arrays_of, condensed
from .open_set import fit_temperature, upper_bound

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
    """The head's rows: first those of the enrolled labels, then of the kept classes, then, where it has one, UNKNOWN's.
    enrolled, kept: how many."""

    enrolled: int
    kept: int
    has_unknown: bool

    @property
    def known(self) -> int:
        """How many there are but for UNKNOWN, whose number this is."""
        return self.enrolled + self.kept

    @property
    def count(self) -> int:
        return self.known + self.has_unknown


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
    from_clips = before.unknown_from_clips or any(clip.label == UNKNOWN for clip in taught)
    from_stills = not from_clips and (before.unknown or any(len(clip.reading.still) for clip in taught))
    rows = Rows(len(labels), len(keeps), from_clips or from_stills)
    statistics = _renumbered(before, rows, bool(kept))
    clips = _clips(taught, kept, labels, rows, statistics.means.shape[1])
    for clip in clips:
        statistics = statistics.with_clip(clip)
    weight, bias = statistics.fit(rows.count)
    size = statistics.means.shape[1]
    sure = {clip: Sure.of(one.windows[:, size:]) for clip, one in zip(clips[len(clips) - len(kept) :], kept)}
    unseen = Unseen.of(statistics, clips, rows, sure)
    shifts, found = unseen.thresholds(false_accepts, from_clips)
    arrays = {
        "weight": weight / unseen.temperature,
        "bias": bias / unseen.temperature + shifts,
        **arrays_of(condensed(statistics)),
    }
    counts = [int(statistics.counts[statistics.labels == row].sum()) for row in range(rows.count)]
    record = {
        "unknown_from": NONE_CLIPS if from_clips else STILL_FRAMES if from_stills else None,
        "temperature": round(unseen.temperature, 4),
        "labels": {
            label: {"clips": counts[row], "left_out_right": unseen.right(row, shifts)}
            for row, label in enumerate(labels)
        },
        "unknown_clips": counts[-1] if rows.has_unknown else 0,
        **found,
        "misses": unseen.misses(shifts),
    }
    if keeps:
        record["kept"] = unseen.kept(shifts) if kept else before.record.get("kept")
    return Lesson(
        labels=(*labels, *kept_labels, *([UNKNOWN] if rows.has_unknown else [])),
        reads=("features", "logits") if keeps else ("features",),
        kept=keeps,
        arrays={name: np.asarray(array, np.float32) for name, array in arrays.items()},
        record=record,
        unknown=rows.has_unknown,
    )


def _clips(
    taught: Sequence[TaughtClip], kept: Sequence[KeptClip], labels: Sequence[str], rows: Rows, features: int
) -> list[Clip]:
    """All new clips by row. What was read as still frames are clips of UNKNOWN; kept ones come last."""
    row_of = {label: row for row, label in enumerate(labels)} | {UNKNOWN: rows.known}
    parts = [(clip.name, row_of[clip.label], clip.windows) for clip in taught]
    parts += [(clip.name, rows.known, clip.reading.still) for clip in taught if len(clip.reading.still)]
    parts += [(clip.name, rows.enrolled + clip.label, clip.windows) for clip in kept]
    return [Clip(name, row, windows[:, :features]) for name, row, windows in parts]


def _renumbered(before: Taught, rows: Rows, kept_anew: bool) -> Statistics:
    """What was taught before, with the numbers that its rows have now. kept_anew: what it knew of kept classes goes."""
    statistics, labels, classes = before.statistics, len(before.labels), len(before.kept)
    table = np.array([*range(labels), *range(rows.enrolled, rows.enrolled + classes), rows.known])
    stays = np.full(len(statistics.means), True)
    if kept_anew:
        stays = (statistics.labels < labels) | (statistics.labels == labels + classes)
    numbers = table[statistics.labels[stays]]
    return Statistics(statistics.means[stays], numbers, statistics.counts[stays], statistics.scatter)


@dataclass(frozen=True)
class Sure:
    """What a model itself says of the windows of a clip. best: (n,) int, its class. log_probability: (n,), of that."""

    best: np.ndarray
    log_probability: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray) -> Sure:
        return cls(logits.argmax(axis=1), np.log(_softmax(logits).max(axis=1)))


@dataclass(frozen=True)
class Unseen:
    """What is said of clips by heads that were not taught with them. clips, logits: (n, rows) of the windows of each,
    divided by the temperature. rows: the head's. sure: of clips of kept classes, what the model itself says."""

    clips: Sequence[Clip]
    logits: Sequence[np.ndarray]
    temperature: float
    rows: Rows
    sure: Mapping[Clip, Sure]

    @classmethod
    def of(cls, statistics: Statistics, clips: Sequence[Clip], rows: Rows, sure: Mapping[Clip, Sure]) -> Unseen:
        """clips: the newest of those in the statistics, in order."""
        found = list(left_out(statistics, list(clips), rows.count))
        temperature = fit_temperature([z for _, z in found], [clip.label for clip, _ in found])
        return cls([clip for clip, _ in found], [z / temperature for _, z in found], temperature, rows, sure)

    def thresholds(self, false_accepts: float, from_clips: bool) -> tuple[np.ndarray, dict[str, Any]]:
        """(what to add to each row's logits, what the record says of it)."""
        shifts = np.zeros(self.rows.count)
        found = self._unknown_threshold(shifts, false_accepts, from_clips) if self.rows.has_unknown else {}
        # Last, since kept classes must win over UNKNOWN as it is then.
        lost = [self._others(z + shifts) - self._gate(clip, z) for clip, z in self._kept_ones()]
        if lost:
            bound = upper_bound(np.concatenate(lost), KEPT_LOSS)
            shifts[self.rows.enrolled : self.rows.known] = max(0.0, bound)
        return shifts, found

    def _unknown_threshold(self, shifts: np.ndarray, false_accepts: float, from_clips: bool) -> dict[str, Any]:
        """Sets the shift of UNKNOWN, the last; returns what the record says of it."""
        of_labels, of_nothing = self._of(range(self.rows.enrolled)), self._of([self.rows.known])
        found: dict[str, Any] = {"none_windows": len(of_nothing) if from_clips else 0}
        if from_clips and len(of_nothing):
            shifts[-1] = upper_bound(self._margin(of_nothing), false_accepts)
            accepted = float((self._margin(of_nothing) > shifts[-1]).mean())
            found |= {"false_accepts_asked": false_accepts, "false_accepts": round(accepted, 5)}
        elif not from_clips and len(of_labels):
            shifts[-1] = min(0.0, -upper_bound(-self._margin(of_labels), MISSES))
        return found

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
        z = self._of(range(self.rows.enrolled))
        if not self.rows.has_unknown or len(z) == 0:
            return None
        return round(float((self._margin(z) <= shifts[-1]).mean()), 4)

    def kept(self, shifts: np.ndarray) -> dict[str, Any]:
        """How many windows of the model's own classes are decided right by the model, and beside the new labels."""
        before, after = [], []
        for clip, z in self._kept_ones():
            if clip in self.sure:
                right = self.sure[clip].best == clip.label - self.rows.enrolled
                before.append(right.mean())
                after.append((right & (self._gate(clip, z + shifts) > self._others(z + shifts))).mean())
        return {"clips": len(before), "right_before": _share(before), "right": _share(after)}

    def _of(self, labels: Sequence[int]) -> np.ndarray:
        """(n, rows): the windows of these rows' clips."""
        found = [z for clip, z in zip(self.clips, self.logits) if clip.label in labels]
        return np.concatenate(found) if found else np.zeros((0, self.rows.count))

    def _margin(self, z: np.ndarray) -> np.ndarray:
        """(n,): by how much the best of the labels exceeds UNKNOWN."""
        return z[:, : self.rows.enrolled].max(axis=1) - z[:, -1]

    def _kept_ones(self) -> list[tuple[Clip, np.ndarray]]:
        """The clips of kept classes, and what is said of them."""
        enrolled, known = self.rows.enrolled, self.rows.known
        return [(clip, z) for clip, z in zip(self.clips, self.logits) if enrolled <= clip.label < known]

    def _gate(self, clip: Clip, z: np.ndarray) -> np.ndarray:
        """(n,): the logit of the best kept class, as the head has it. Of clips that are only remembered nothing is
        known of the model's own logits: they count as sure."""
        sure = self.sure[clip].log_probability if clip in self.sure else 0.0
        return np.logaddexp.reduce(z[:, self.rows.enrolled : self.rows.known], axis=1) + sure

    def _others(self, z: np.ndarray) -> np.ndarray:
        """(n,): the best logit of what is no kept class."""
        return np.delete(z, range(self.rows.enrolled, self.rows.known), axis=1).max(axis=1)


def _share(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _softmax(z: np.ndarray) -> np.ndarray:
    exponents = np.exp(z - z.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)
