"""The head's closed form: a linear discriminant whose covariance all labels share, and what it would say of each clip
had it never seen it.

Each clip counts once, however many windows it has. With a few clips there are fewer of them than features, so that the
covariance is regularised: as if one clip more had come, of equal variance in every direction.

Chosen by measurement over nearest mean, cosine to the mean, ridge and logistic regression: docs/actions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PRIOR_CLIPS = 1.0


@dataclass(frozen=True)
class Statistics:
    """All that a discriminant is made of. float64.

    means: (m, D), of the windows of each clip, or of several clips together. labels: (m,) int, 0 to rows - 1. counts:
    (m,), how many clips a mean is of. scatter: (D, D), what the windows differ from those means: the mean of
    (x - mean)(x - mean)^T over the windows of a clip, summed over all clips.
    """

    means: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    scatter: np.ndarray

    def with_clip(self, clip: Clip) -> Statistics:
        """The same with one more."""
        return Statistics(
            np.concatenate([self.means, clip.mean[np.newaxis]]),
            np.append(self.labels, clip.label),
            np.append(self.counts, 1.0),
            self.scatter + clip.scatter,
        )

    def without(self, index: int, scatter: np.ndarray | float = 0.0) -> Statistics:
        """The same without the mean of that number. scatter: the part that came with it, as far as it is known."""
        others = np.arange(len(self.means)) != index
        return Statistics(self.means[others], self.labels[others], self.counts[others], self.scatter - scatter)

    def fit(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """weight (rows, D), bias (rows,): logits are weight x + bias, log densities up to what all rows share."""
        centres = np.zeros((rows, self.means.shape[1]))
        clips = np.zeros(rows)
        np.add.at(centres, self.labels, self.counts[:, np.newaxis] * self.means)
        np.add.at(clips, self.labels, self.counts)
        centres /= clips[:, np.newaxis]
        apart = self.means - centres[self.labels]
        total = self.scatter + (apart * self.counts[:, np.newaxis]).T @ apart
        covariance = regularised(total, clips.sum())
        weight = np.linalg.solve(covariance, centres.T).T
        return weight, -0.5 * (weight * centres).sum(axis=1)


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip with the features of its windows. label: number of its row. windows: (n, D) float64, n >= 1."""

    name: str
    label: int
    windows: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(D,)."""
        return self.windows.mean(axis=0)

    @property
    def scatter(self) -> np.ndarray:
        """(D, D): the mean of (x - mean)(x - mean)^T over its windows."""
        apart = self.windows - self.mean
        return apart.T @ apart / len(self.windows)


def regularised(total: np.ndarray, clips: float) -> np.ndarray:
    """The covariance (D, D) of so many clips. total: summed over them."""
    size = len(total)
    variance = np.trace(total) / clips / size
    # Features that never change have no variance at all; then any will do.
    return (total + PRIOR_CLIPS * (variance or 1.0) * np.eye(size)) / (clips + PRIOR_CLIPS)


def empty(features: int) -> Statistics:
    """Of no clips at all."""
    return Statistics(np.zeros((0, features)), np.zeros(0, np.int64), np.zeros(0), np.zeros((features, features)))


def left_out(statistics: Statistics, clips: list[Clip], rows: int) -> Iterator[tuple[Clip, np.ndarray]]:
    """Each clip and the logits (n, rows) of its windows by a discriminant of all others.

    clips: the newest of those in ``statistics``, in order; those before them, of which only means are known, are left
    out as such: each as a clip of one window. What is the only one of its row is passed over.
    """
    remembered = len(statistics.means) - len(clips)
    for index in range(len(statistics.means)):
        if index < remembered:
            clip = Clip("", int(statistics.labels[index]), statistics.means[index : index + 1])
        else:
            clip = clips[index - remembered]
        others = statistics.without(index, clip.scatter)
        if clip.label in others.labels:
            weight, bias = others.fit(rows)
            yield clip, clip.windows @ weight.T + bias
