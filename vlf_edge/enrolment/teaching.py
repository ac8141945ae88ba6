"""Teaching: labels learned example by example, and a head after each of them. Plain code: no camera, no clock, no keys.

What it comes to is what ``enrol`` would have made of the same examples at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import VlfError
from ..head import UNKNOWN, Head
from ..plan import Plan
from .clips import TaughtClip, check_labels, mirrored_labels, why_useless
from .enrol import check_enrollable, check_share
from .lesson import Lesson, teach
from .memory import Taught
from .reading import Reading
from .writing import head_of, write_head


class Teaching:
    """What a plan is taught, from the first example on.

    false_accepts, mirror: see ``enrol``. head: what decides now: None until there is an example, unless the plan was
    taught before. unsaved: how many examples came, or went, since the plan was written. Raises PlanMismatch for a plan
    that can be taught nothing.
    """

    def __init__(self, plan: Plan, *, false_accepts: float = 0.01, mirror: bool = True):
        check_enrollable(plan)
        check_share(false_accepts)
        self.plan, self._false_accepts, self._mirror = plan, false_accepts, mirror
        self.before = Taught.of(plan)
        self.head: Head | None = plan.head() if self.before.labels else None
        self.unsaved = 0
        self._examples: list[TaughtClip] = []
        self._lesson: Lesson | None = None

    @property
    def answer(self) -> tuple[str, ...]:
        """Roles of the outputs that windows are to be of, as a Reader takes them."""
        return ("features", "logits") if self.before.kept else ("features",)

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that are known: taught before, then taught here."""
        here = dict.fromkeys(one.label for one in self._examples if one.label != UNKNOWN)
        return (*self.before.labels, *(label for label in here if label not in self.before.labels))

    @property
    def examples(self) -> dict[str, int]:
        """How many there are of each label, UNKNOWN among them; of those taught before, what the plan remembers."""
        rows = [*self.before.labels, *self.before.kept_labels, UNKNOWN]
        known = self.before.statistics
        counts = {label: int(known.counts[known.labels == row].sum()) for row, label in enumerate(rows)}
        shown = dict.fromkeys((*self.labels, UNKNOWN), 0) | {k: n for k, n in counts.items() if k in self.labels}
        if self.before.unknown_from_clips:
            shown[UNKNOWN] = counts[UNKNOWN]
        for one in self._examples:
            shown[one.label] += 1
        return shown

    def add(self, label: str, example: Reading, least_s: float) -> None:
        """One more example, read with still frames and mirror images, as far as these are wanted. label: UNKNOWN for
        what is none of the labels. least_s: ``Reader.least_s``. Raises VlfError if it can teach nothing."""
        if label != UNKNOWN:
            check_labels([label])
        if label in self.before.kept_labels:
            raise VlfError(f"{label!r} is a class that this plan keeps: choose another label")
        if why := why_useless(label, example, least_s):
            raise VlfError(f"this example of {label!r} teaches nothing: {why}")
        self._examples.append(TaughtClip(f"example {len(self._examples) + 1}", label, example))
        self._fit()

    def undo(self) -> str | None:
        """Takes the latest example back. Returns its label; None if there is none."""
        if not self._examples:
            return None
        label = self._examples.pop().label
        self._fit()
        return label

    def decide(self, window: np.ndarray) -> tuple[str, float] | None:
        """(label, its probability) of a window, (D,) or (D + C,) as ``answer`` says; None if nothing was taught."""
        if self.head is None:
            return None
        logits = self.head(window).astype(np.float64)
        shares = np.exp(logits - logits.max())
        best = int(shares.argmax())
        return self.head.labels[best], float(shares[best] / shares.sum())

    def save(self, output: str | os.PathLike[str]) -> Plan:
        """Writes the plan with what it was taught. Raises VlfError if there is nothing to save, PlanError."""
        if self._lesson is None:
            raise VlfError("there is nothing to save: no example of a label was given")
        plan = write_head(self.plan, output, self._lesson)
        self.unsaved = 0
        return plan

    def _fit(self) -> None:
        self.unsaved += 1
        self._lesson, self.head = None, self.plan.head() if self.before.labels else None
        if self._examples and self.labels:
            examples = self._usable()
            classes = self.plan.manifest.classes
            self._lesson = teach(self.before, self.labels, examples, [], classes, self._false_accepts)
            self.head = head_of(self._lesson, classes)

    def _usable(self) -> Sequence[TaughtClip]:
        """The examples label by label, with that of their readings which ``enrol`` would have taken."""
        labels, before = self.labels, self.before
        mirrored = mirrored_labels(labels, self.plan.manifest.labels) if self._mirror else set()
        from_clips = before.unknown_from_clips or any(one.label == UNKNOWN for one in self._examples)
        still = not from_clips and not before.kept
        none, order = np.zeros((0, 0)), [*labels, UNKNOWN]
        return [
            replace(
                one,
                reading=replace(
                    one.reading,
                    mirrored=one.reading.mirrored if one.label in mirrored else none,
                    still=one.reading.still if still else none,
                ),
            )
            for one in sorted(self._examples, key=lambda one: order.index(one.label))
        ]
