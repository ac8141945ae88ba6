"""The figures of a board in Prometheus' text format. The one file that imports prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from .._version import __version__
from .board import Board

CONTENT_TYPE = CONTENT_TYPE_LATEST
STATES = ("waiting", "warming", "ok", "gap", "failed", "stale", "no_signal", "given_up", "ended")
_COUNTERS = {
    "captured": ("vlf_edge_frames_captured", "Frames that came from the source"),
    "encoded": ("vlf_edge_frames_encoded", "Frames that the model has seen"),
    "off_grid": ("vlf_edge_frames_skipped", "Frames between two instants of the sampling grid"),
    "gaps": ("vlf_edge_gaps", "Times at which frames were missing and a window began anew"),
    "decisions": ("vlf_edge_decisions", "Decisions made"),
    "over_budget": ("vlf_edge_decisions_over_budget", "Decisions that came later than their budget"),
}
_PLAN = ("file", "digest", "model", "precision", "backend", "device")
_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}


class Metrics:
    """The metrics of one board, in a registry of their own."""

    def __init__(self, board: Board):
        self._registry = CollectorRegistry()
        self._registry.register(_BoardCollector(board))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them, of now."""
        return generate_latest(self._registry)


class _BoardCollector(Collector):
    def __init__(self, board: Board):
        self._board = board

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        state = self._board.state()
        streams = state["streams"]
        healthy = GaugeMetricFamily("vlf_edge_healthy", "1 if /healthz says so")
        healthy.add_metric([], float(state["health"]["ok"]))
        yield healthy
        plan = {name: str(state["plan"].get(name, "")) for name in _PLAN}
        yield InfoMetricFamily("vlf_edge_plan", "The plan that runs", value={"version": __version__, **plan})
        for count, (name, text) in _COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=["stream"])
            for stream in streams:
                if count in stream["counts"]:
                    family.add_metric([stream["name"]], stream["counts"][count])
            yield family
        lost = CounterMetricFamily("vlf_edge_lost", "Frames or decisions lost, by cause", labels=["stream", "cause"])
        for stream in streams:
            for cause, count in stream["lost"].items():
                lost.add_metric([stream["name"], cause], count)
        yield lost
        yield from _states(streams)
        yield from _latency(state["stages"])
        yield from _sinks(state["sinks"])
        energy = CounterMetricFamily("vlf_edge_energy_joules", "Energy that the machine has taken", labels=["meter"])
        for meter, joules in state["process"].get("joules", {}).items():
            energy.add_metric([meter], joules)
        yield energy


def _states(streams: list[Mapping[str, Any]]) -> Iterator[Metric]:
    current = GaugeMetricFamily("vlf_edge_stream_state", "1 for the state a stream is in", labels=["stream", "state"])
    since = GaugeMetricFamily(
        "vlf_edge_stream_state_since_timestamp_seconds", "When a stream's state began", labels=["stream"]
    )
    seen = GaugeMetricFamily(
        "vlf_edge_stream_last_frame_timestamp_seconds", "When a stream's newest frame came", labels=["stream"]
    )
    age = GaugeMetricFamily(
        "vlf_edge_decision_age_seconds", "From capture to the newest decision", labels=["stream"]
    )  # fmt: skip
    back = CounterMetricFamily("vlf_edge_stream_reconnects", "How often a stream came back", labels=["stream"])
    for stream in streams:
        back.add_metric([stream["name"]], stream["reconnects"])
        for state in STATES:
            current.add_metric([stream["name"], state], float(stream["state"] == state))
        since.add_metric([stream["name"]], stream["since_s"])
        if stream["frame_s"] is not None:
            seen.add_metric([stream["name"]], stream["frame_s"])
        if stream["age_ms"] is not None:
            age.add_metric([stream["name"]], stream["age_ms"] / 1e3)
    yield from (current, since, back, seen, age)


def _latency(stages: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "vlf_edge_stage_latency_seconds", "What a stage took, of its newest runs", labels=["stage", "quantile"]
    )
    for stage, spread in stages.items():
        for name, quantile in _QUANTILES.items():
            if name in spread:
                family.add_metric([stage, quantile], spread[name] / 1e3)
    yield family


def _sinks(sinks: list[Mapping[str, Any]]) -> Iterator[Metric]:
    written = CounterMetricFamily("vlf_edge_sink_written", "What a sink has delivered", labels=["sink"])
    lost = CounterMetricFamily(
        "vlf_edge_sink_lost", "What a sink has not delivered, by cause", labels=["sink", "cause"]
    )
    working = GaugeMetricFamily("vlf_edge_sink_ok", "1 if a sink delivers", labels=["sink"])
    for sink in sinks:
        name = str(sink.get("name"))
        working.add_metric([name], float(sink.get("state") == "ok"))
        written.add_metric([name], sink.get("written", 0))
        for cause in ("dropped", "failed"):
            lost.add_metric([name, cause], sink.get(cause, 0))
    yield from (working, written, lost)
