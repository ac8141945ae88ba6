"""How sure a head is, and when it says "unknown": both from what it says of clips that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Logits of a discriminant of so few clips claim far more than they know. Where too few clips were left out to find out
# how much, this is what five labels of five clips needed (benchmarks/enrol.py).
USUAL_TEMPERATURE = 8.0
_TEMPERATURES = np.geomspace(0.25, 256, 161)


def fit_temperature(logits: Sequence[np.ndarray], labels: Sequence[int]) -> float:
    """What to divide logits by, so that probabilities are those of being right: the temperature of the least negative
    log likelihood. Every clip counts alike within its label, and every label alike.

    logits: of each clip, (n, rows). labels: its row. USUAL_TEMPERATURE for clips of fewer than two labels.
    """
    if len(set(labels)) < 2:
        return USUAL_TEMPERATURE
    of_label = {label: list(labels).count(label) for label in labels}
    weights = np.concatenate([np.full(len(z), 1 / len(z) / of_label[label]) for z, label in zip(logits, labels)])
    truth = np.concatenate([np.full(len(z), label) for z, label in zip(logits, labels)])
    stacked = np.concatenate(logits)
    costs = []
    for temperature in _TEMPERATURES:
        scaled = stacked / temperature
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        own = scaled[np.arange(len(truth)), truth] - np.log(np.exp(scaled).sum(axis=1))
        costs.append(-(weights * own).sum())
    return float(_TEMPERATURES[int(np.argmin(costs))])


def upper_bound(values: np.ndarray, share: float) -> float:
    """The least of the ``values`` that a further one of their kind exceeds with a probability of at most ``share``.

    values: (n,) exchangeable with what is to come. That is the order statistic ceil((n + 1) (1 - share)) (split
    conformal prediction: Vovk, Gammerman and Shafer, 2005). The largest of all where even that is exceeded oftener:
    ``enough`` tells.
    """
    rank = min(math.ceil((len(values) + 1) * (1 - share) - 1e-9), len(values))
    return float(np.sort(values)[rank - 1])


def enough(count: int, share: float) -> bool:
    """Whether so many values can bound a share."""
    return math.ceil((count + 1) * (1 - share) - 1e-9) <= count


def why_not_held(record: Mapping[str, Any]) -> str:
    """Why a head's rate of false accepts is not the one asked for; empty if it is. record: the head's."""
    asked, count = record.get("false_accepts_asked"), record.get("none_windows", 0)
    if asked is None or enough(count, asked):
        return ""
    return (
        f"the clips of nothing have {count} windows, too few to hold false accepts to {asked:g} of them: that takes "
        f"{math.ceil(1 / asked - 1)}; the one most like a label sets the threshold"
    )
