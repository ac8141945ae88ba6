"""change_labels: labels of a plan renamed, or taken out, without teaching anything anew."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import VlfError
from ..head import UNKNOWN, Head
from ..plan import Plan, check_output
from .discriminant import Statistics
from .lesson import Lesson
from .memory import arrays_of, statistics_of
from .writing import write_head


def change_labels(
    plan: str | os.PathLike[str] | Plan,
    output: str | os.PathLike[str],
    *,
    remove: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Plan:
    """Writes the plan to ``output`` with other labels.

    remove: labels that it shall not decide for any more; of those enrolled it forgets the clips too. rename: {label:
    new name}. Raises VlfError for labels that are not there, for names that are taken, and if fewer than two are left.
    """
    plan = plan if isinstance(plan, Plan) else Plan.open(plan)
    rename = dict(rename or {})
    labels = plan.manifest.labels
    for label in (*remove, *rename):
        if label not in labels:
            raise VlfError(f"{plan.path} has no label {label!r}; it has: {', '.join(labels)}")
        if label == UNKNOWN and plan.manifest.head is not None:
            raise VlfError(f"{UNKNOWN!r} is what is none of the other labels: it can neither go nor change its name")
    left = [label for label in labels if label not in remove]
    named = [rename.get(label, label) for label in left]
    for name in named:
        if named.count(name) > 1 or (name == UNKNOWN and UNKNOWN not in left):
            raise VlfError(f"a label cannot be called {name!r}: another one is, or it is what is none of them")
    if len(left) < 2:
        raise VlfError(f"{plan.path} would decide between {len(left)} label; expected two or more")
    check_output(output)
    return write_head(plan, output, _lesson(plan, plan.head(), left, rename))


def _lesson(plan: Plan, head: Head | None, left: Sequence[str], rename: Mapping[str, str]) -> Lesson:
    labels = plan.manifest.labels
    unknown = head is not None and head.info.unknown
    enrolled = 0 if head is None else head.info.enrolled(labels)
    classes = labels[enrolled : len(labels) - unknown]
    numbers = range(len(classes)) if head is None else head.info.kept
    kept = tuple(number for number, label in zip(numbers, classes) if label in left)
    record = dict(head.info.record) if head else {}
    if isinstance(record.get("labels"), dict):
        record["labels"] = {rename.get(name, name): one for name, one in record["labels"].items() if name in left}
    arrays = {} if head is None else dict(head.arrays)
    if enrolled:
        rows = [label in left for label in labels]
        arrays = _with_rows(head, np.flatnonzero(rows))
    reads = tuple(role for role, used in (("features", enrolled), ("logits", kept)) if used)
    if enrolled and not any(label in left for label in labels[:enrolled]):
        raise VlfError("the enrolled labels cannot all go; take the plan that they were enrolled on")
    return Lesson(tuple(rename.get(label, label) for label in left), reads, kept, arrays, record, unknown)


def _with_rows(head: Head, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a head with these of its rows alone."""
    arrays = {**head.arrays, "weight": head.arrays["weight"][rows], "bias": head.arrays["bias"][rows]}
    statistics = statistics_of(head)
    if statistics is not None:
        chosen = np.isin(statistics.labels, rows)
        numbers = np.searchsorted(rows, statistics.labels[chosen])
        arrays |= arrays_of(
            Statistics(statistics.means[chosen], numbers, statistics.counts[chosen], statistics.scatter)
        )
    return arrays
