"""Frame accounting that adds up, and where the time goes.

captured = encoded + off_grid + dropped + failed + waiting, for each stream and at every instant: a frame changes from
one of these to another in one step that nobody sees the middle of. dropped is the sum of its causes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_KEPT = 4096


CAUSES = ("overload", "overrun", "undecoded", "late", "at_end")
"""Why frames are dropped, each with a count of its own, "dropped_overload" and so on."""

COUNTS = (
    "captured",
    "waiting",
    "encoded",
    "off_grid",
    "dropped",
    *(f"dropped_{cause}" for cause in CAUSES),
    "failed",
    "gaps",
    "decisions",
    "stale",
    "over_budget",
    "not_numbers",
    "undelivered",
    "clips",
)


class Stats:
    """Counts and durations. Any thread may add and read.

    counts: captured, waiting (on their way to the model at this moment), encoded, off_grid (between two instants of the
    sampling grid, so never even resized), dropped, failed (encoding raised an error), gaps, decisions, stale (of these,
    how many came later than they may and were given without their label), over_budget (of these, how many came later
    than their budget), not_numbers (answers of the model that were NaN or infinite), undelivered (steps of a camera
    that the caller was too slow to take); clips (``classify`` calls, no part of a stream). Causes of ``dropped``:
    overload (due, but the machine was busy and newer ones came), overrun (not even read in time from the network),
    undecoded (came damaged), late (from a read that was given up), at_end (waiting when the run ended). All of them are
    there from the beginning.
    labels: how often each was decided. kept: how many of the newest durations of each kind are kept.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept_durations = kept
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Back to zero."""
        with self._lock:
            self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
            self.labels: Counter[str] = Counter()
            self._durations_ms: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=self._kept_durations))
            self._longest_ms: dict[str, float] = {}

    def add(self, **by: int) -> None:
        """Changes several counts in one step: ``add(waiting=-1, encoded=1)``."""
        with self._lock:
            for name, change in by.items():
                self.counts[name] += change

    def drop(self, cause: str, *, waiting: bool = True) -> None:
        """Counts a frame that is lost. waiting: it had been counted as on its way; else it is captured only now."""
        self.add(**{"waiting" if waiting else "captured": -1 if waiting else 1, "dropped": 1, f"dropped_{cause}": 1})

    def note_decision(self, label: str) -> None:
        """Counts a decision and its label."""
        with self._lock:
            self.counts["decisions"] += 1
            self.labels[label] += 1

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
        with self._lock:
            self._durations_ms[kind].append(duration_ms)
            self._longest_ms[kind] = max(duration_ms, self._longest_ms.get(kind, 0.0))

    def add_counts(self, other: Stats) -> None:
        """Adds the counts and labels of another."""
        with other._lock:
            counts, labels = other.counts.copy(), other.labels.copy()
        with self._lock:
            self.counts.update(counts)
            self.labels.update(labels)

    def copy(self) -> Stats:
        """One of its own, with the same counts, labels and durations."""
        made = Stats(self._kept_durations)
        made.add_counts(self)
        with self._lock:
            for kind, values in self._durations_ms.items():
                made._durations_ms[kind].extend(values)
            made._longest_ms = dict(self._longest_ms)
        return made

    def summary(self) -> dict[str, Any]:
        """{"counts": {...}, "labels": {...}, "ms": {kind: {"n", "mean", "p50", "p95", "p99", "max"}}} as plain JSON
        values; max is the longest ever, the others are of the newest."""
        with self._lock:
            durations = {kind: np.array(values) for kind, values in self._durations_ms.items() if values}
            counts, labels, longest_ms = self.counts.copy(), self.labels.copy(), dict(self._longest_ms)
        return {
            "counts": dict(sorted(counts.items())),
            "labels": dict(labels.most_common()),
            "ms": {kind: _spread(values, longest_ms[kind]) for kind, values in sorted(durations.items())},
        }

    def describe(self) -> str:
        """The summary in a few lines of text."""
        figures = self.summary()
        counts = figures["counts"]
        labels = ", ".join(f"{label} {n}" for label, n in [*figures["labels"].items()][:5])
        rows = [
            f"{counts['decisions']} decisions" + (f": {labels}" if labels else ""),
            f"{counts['captured']} frames captured = {counts['encoded']} encoded + {counts['off_grid']} between two "
            f"instants + {counts['dropped']} dropped{_causes(counts)}; {counts['gaps']} gaps",
        ]
        if counts["stale"] or counts["over_budget"]:
            rows.append(f"{counts['stale']} decisions came too late to count, {counts['over_budget']} over budget")
        if counts["undelivered"] or counts["failed"] or counts["not_numbers"]:
            rows.append(
                f"{counts['undelivered']} results came too fast for the caller, {counts['failed']} frames failed, "
                f"{counts['not_numbers']} answers were no numbers"
            )
        stages = figures["ms"]
        if (age_ms := stages.pop("age", None)) is not None:
            shown = ", ".join(f"{kind} {age_ms[kind]:.1f}" for kind in ("p50", "p95", "p99", "max"))
            rows.append(f"ms from capture to decision: {shown}")
        if stages:
            spreads = (f"{kind.replace('_', ' ')} {ms['p50']:.2f} ({ms['p95']:.2f})" for kind, ms in stages.items())
            rows.append(f"ms p50 (p95): {', '.join(spreads)}")
        return "\n".join(rows)


def describe_run(process: dict[str, Any], streams: dict[str, dict[str, Any]]) -> list[str]:
    """What it took, and which cameras had trouble, in a few lines of text: of ``Runtime.stats``."""
    energy_mj = process["mj_per_decision"]
    took = f"{process['cpu_s']:.1f} s of CPU time"
    rows = [took if energy_mj is None else f"{took}, {energy_mj:.1f} mJ a decision"]
    for name, stream in streams.items():
        if stream["last_error"] is not None:
            rows.append(f"{name}: back {stream['reconnects']} times; last error: {stream['last_error']}")
    return rows


def _causes(counts: dict[str, int]) -> str:
    """Why frames were dropped, where it was not only overload."""
    found = {cause.replace("_", " "): counts[f"dropped_{cause}"] for cause in CAUSES if counts[f"dropped_{cause}"]}
    return f" ({', '.join(f'{n} {cause}' for cause, n in found.items())})" if found.keys() - {"overload"} else ""


def _spread(values_ms: np.ndarray, longest_ms: float) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values_ms, (50, 95, 99))
    spread = {"mean": values_ms.mean(), "p50": p50, "p95": p95, "p99": p99, "max": longest_ms}
    return {"n": len(values_ms), **{name: round(float(value), 4) for name, value in spread.items()}}
