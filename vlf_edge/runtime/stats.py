"""Frame accounting that adds up, and where the time goes.

captured = encoded + off_grid + dropped + failed: every frame that left the source is one of these, but for those still
on their way when a stream is ended early.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_KEPT = 4096


COUNTS = (
    "captured",
    "encoded",
    "off_grid",
    "dropped",
    "failed",
    "gaps",
    "decisions",
    "not_numbers",
    "undelivered",
    "clips",
)


class Stats:
    """Counts and durations. Each kind is written by one thread; reading from another gives a recent picture.

    counts: captured, encoded, off_grid (between two instants of the sampling grid, so never even resized), dropped
    (due, but the machine was busy and newer ones came), failed (encoding raised an error), gaps, decisions, not_numbers
    (answers of the model that were NaN or infinite), undelivered (steps of a camera that the caller was too slow to
    take); clips (``classify`` calls, no part of a stream). All of them are there from the beginning.
    labels: how often each was decided. kept: how many of the newest durations of each kind are kept.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept_durations = kept
        self.reset()

    def reset(self) -> None:
        """Back to zero."""
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.labels: Counter[str] = Counter()
        self._durations_ms: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=self._kept_durations))

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Adds the wall time of the block to the durations of ``kind``."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.add_ms(kind, (time.perf_counter() - start_s) * 1e3)

    def add_ms(self, kind: str, duration_ms: float) -> None:
        """Adds one duration of ``kind``."""
        self._durations_ms[kind].append(duration_ms)

    def add_counts(self, other: Stats) -> None:
        """Adds the counts and labels of another."""
        self.counts.update(other.counts)
        self.labels.update(other.labels)

    def copy(self) -> Stats:
        """One of its own, with the same counts, labels and durations."""
        made = Stats(self._kept_durations)
        made.add_counts(self)
        for kind, values in list(self._durations_ms.items()):
            made._durations_ms[kind].extend(values)
        return made

    def summary(self) -> dict[str, Any]:
        """{"counts": {...}, "labels": {...}, "ms": {kind: {"n", "mean", "p50", "p95", "p99"}}} as plain JSON values."""
        durations = {kind: np.array(values) for kind, values in list(self._durations_ms.items())}
        return {
            "counts": dict(sorted(self.counts.items())),
            "labels": dict(self.labels.most_common()),
            "ms": {kind: _spread(values) for kind, values in sorted(durations.items()) if len(values)},
        }

    def describe(self) -> str:
        """The summary in a few lines of text."""
        counts, figures = self.counts, self.summary()
        labels = ", ".join(f"{label} {n}" for label, n in self.labels.most_common(5))
        rows = [
            f"{counts['decisions']} decisions" + (f": {labels}" if labels else ""),
            f"{counts['captured']} frames captured = {counts['encoded']} encoded + {counts['off_grid']} between two "
            f"instants + {counts['dropped']} dropped; {counts['gaps']} gaps",
        ]
        if counts["undelivered"] or counts["failed"] or counts["not_numbers"]:
            rows.append(
                f"{counts['undelivered']} results came too fast for the caller, {counts['failed']} frames failed, "
                f"{counts['not_numbers']} answers were no numbers"
            )
        if figures["ms"]:
            spreads = (
                f"{kind.replace('_', ' ')} {ms['p50']:.2f} ({ms['p95']:.2f})" for kind, ms in figures["ms"].items()
            )
            rows.append(f"ms p50 (p95): {', '.join(spreads)}")
        return "\n".join(rows)


def _spread(values_ms: np.ndarray) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values_ms, (50, 95, 99))
    spread = {"mean": values_ms.mean(), "p50": p50, "p95": p95, "p99": p99}
    return {"n": len(values_ms), **{name: round(float(value), 4) for name, value in spread.items()}}
