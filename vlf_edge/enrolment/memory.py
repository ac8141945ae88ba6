"""What a plan remembers of the clips it was taught with: their mean features and how windows differ from them.

No picture is kept, and no path. It is what enrolling again needs to come to the same head as if all clips had been
given at once, but for how well single windows of the earlier ones were known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import PlanMismatch
from ..head import Head
from ..manifest import Manifest
from ..plan import Plan
from .discriminant import Statistics, empty

ARRAYS = ("clip_means", "clip_labels", "clip_counts", "clip_scatter")
MOST_BYTES = 80_000  # of the means; the rest of a head of 192 features takes 79 kB


NONE_CLIPS, STILL_FRAMES = "none clips", "still frames"  # what UNKNOWN was taught with


@dataclass(frozen=True)
class Taught:
    """What a plan was taught so far.

    labels: those enrolled. kept: numbers of the model's own classes that it decides between beside them, and their
    labels. unknown: whether it knows UNKNOWN. statistics: of the clips, by row: one for each label, one for each kept
    class, one for UNKNOWN. record: of the head.
    """

    labels: tuple[str, ...]
    kept: tuple[int, ...]
    kept_labels: tuple[str, ...]
    unknown: bool
    statistics: Statistics
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unknown_from_clips(self) -> bool:
        """Whether UNKNOWN was taught with clips of other things."""
        return self.record.get("unknown_from") == NONE_CLIPS

    @classmethod
    def of(cls, plan: Plan) -> Taught:
        """Raises PlanMismatch for a head that does not remember what it was made of."""
        head = plan.head()
        if head is None or "features" not in head.info.reads:
            return cls((), (), (), False, empty(features_of(plan.manifest)))
        statistics = statistics_of(head)
        if statistics is None:
            raise PlanMismatch(
                f"{plan.path} does not remember what its labels were taught with; enrol on the plan it was made from"
            )
        info, enrolled = head.info, head.info.enrolled(head.labels)
        kept_labels = head.labels[enrolled : enrolled + len(info.kept)]
        return cls(head.labels[:enrolled], info.kept, kept_labels, info.unknown, statistics, info.record)


def features_of(manifest: Manifest) -> int:
    """How many features the last stage gives; 0: none."""
    last = manifest.stage_roles[-1]
    name, graph = last.output_of("features"), manifest.graph(last.name, "portable")
    return next((int(spec.shape[1]) for spec in graph.outputs if spec.name == name), 0)


def arrays_of(statistics: Statistics) -> dict[str, np.ndarray]:
    """As arrays of a head: float32; of the scatter, which is symmetric, the upper triangle."""
    size = len(statistics.scatter)
    values = (
        statistics.means,
        statistics.labels,
        statistics.counts,
        statistics.scatter[np.triu_indices(size)],
    )
    return {name: np.asarray(value, np.float32) for name, value in zip(ARRAYS, values)}


def statistics_of(head: Head) -> Statistics | None:
    """What a head remembers; None if it remembers nothing, or not what fits it."""
    return _from_arrays(head.arrays)


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Statistics | None:
    if not {*ARRAYS, "weight"} <= arrays.keys():
        return None
    means, labels, counts, triangle = (arrays[name].astype(np.float64) for name in ARRAYS)
    rows, size = arrays["weight"].shape
    upper = np.triu_indices(size)
    sound = (
        means.ndim == 2
        and means.shape[1] == size
        and labels.shape == counts.shape == means.shape[:1]
        and triangle.shape == upper[0].shape
        and bool((counts > 0).all())
        and {*labels.tolist()} == {*range(rows)}
    )
    if not sound:
        return None
    scatter = np.zeros((size, size))
    scatter[upper] = triangle
    return Statistics(means, labels.astype(np.int64), counts, scatter + np.triu(scatter, 1).T)


def condensed(statistics: Statistics) -> Statistics:
    """The same with so few means that they take MOST_BYTES: two neighbours of one label become one.

    Nothing that a discriminant is made of changes: what two means differ becomes scatter.
    """
    most = max(2 * len(set(statistics.labels.tolist())), MOST_BYTES // (4 * statistics.means.shape[1]))
    while len(statistics.means) > most:
        statistics = _halved(statistics, len(statistics.means) - most)
    return statistics


def _halved(statistics: Statistics, fewer: int) -> Statistics:
    """Joins up to ``fewer`` pairs, those of the labels with most means first."""
    means, labels, counts, scatter = (
        statistics.means.copy(), statistics.labels, statistics.counts.copy(), statistics.scatter.copy(),
    )  # fmt: skip
    gone: list[int] = []
    for label in sorted(set(labels.tolist()), key=lambda one: -int((labels == one).sum())):
        places = np.flatnonzero(labels == label)
        for first, second in zip(places[::2], places[1::2]):
            if len(gone) == fewer:
                break
            a, b = counts[first], counts[second]
            apart = means[first] - means[second]
            scatter += a * b / (a + b) * np.outer(apart, apart)
            means[first] = (a * means[first] + b * means[second]) / (a + b)
            counts[first] = a + b
            gone.append(int(second))
    kept = np.setdiff1d(np.arange(len(means)), gone)
    return Statistics(means[kept], labels[kept], counts[kept], scatter)
