"""What a Runtime tells of itself: counts, times, sources, sinks, CPU and energy."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from .energy import EnergyMeter
from .pipeline import Pipeline
from .recognizer import Recognizer
from .sinks import Sink
from .stats import Stats

_PUSHED = {
    "source": None, "live": False, "state": "pushed", "state_for_s": 0.0, "reconnects": 0, "last_error": None,
}  # fmt: skip
"""What is known of a stream whose frames the caller pushes."""


class Report:
    """What the process has used since this was made, and what is put together with it. device: number of the GPU."""

    def __init__(self, device: int):
        self._device, self._cpu_from_s = device, time.process_time()
        self._meter: EnergyMeter | None = None
        self._metering = threading.Lock()

    def stats(
        self, backend: str, recognizer: Recognizer, pipeline: Pipeline | None, sinks: Sequence[Sink]
    ) -> dict[str, Any]:
        """As ``Runtime.stats`` gives them. pipeline: the latest, None if there was none."""
        total = recognizer.total().summary()
        reports = {} if pipeline is None else pipeline.reports()
        streams = {
            name: {**stream.stats.summary(), **reports.get(name, _PUSHED)}
            for name, stream in list(recognizer.streams.items())
        }
        return {
            "backend": backend,
            **total,
            "process": self._process(total["counts"]["decisions"]),
            "streams": streams,
            "sinks": [stats for sink in sinks if (stats := sink.stats()) is not None],
        }

    def read_meter(self) -> dict[str, float]:
        """Joules by meter. The first call, of a pipeline that has begun, finds the meters."""
        with self._metering:
            if self._meter is None:
                self._meter = EnergyMeter(device=self._device)
        return self._meter.read()

    def _process(self, decisions: int) -> dict[str, Any]:
        joules = self.read_meter()
        return {
            "cpu_s": round(time.process_time() - self._cpu_from_s, 3),
            "joules": {kind: round(value, 3) for kind, value in joules.items()},
            "mj_per_decision": round(1e3 * sum(joules.values()) / decisions, 3) if joules and decisions else None,
        }


def describe(total: Stats, stats: dict[str, Any]) -> str:
    """What ``Report.stats`` gave, in a few lines of text. total: counts and times of all streams."""
    process, energy = stats["process"], stats["process"]["mj_per_decision"]
    rows = [
        total.describe(),
        f"{process['cpu_s']:.1f} s of CPU time" + ("" if energy is None else f", {energy:.1f} mJ a decision"),
    ]
    for name, stream in stats["streams"].items():
        if stream["last_error"] is not None:
            rows.append(f"{name}: back {stream['reconnects']} times; last error: {stream['last_error']}")
    return "\n".join(rows) + f"; on {stats['backend']}"
