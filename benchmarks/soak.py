"""Left running: how fast do decisions resume after an outage, and does anything grow?

    python benchmarks/soak.py [PLAN] [--rounds 100] [--minutes 30] [--streams 4]

A real RTSP server (GStreamer's, see tests/rtsp_server.py for its packages) is killed and started again, frozen
(SIGSTOP) and thawed, and started again with another size and rate, in turn. Its pictures show their number, and the
model of the rounds reads them: it has the sampling of PLAN, and tells of every decision which frames it saw. A round is
timed from the server's return to the first decision of each stream.

The soak runs PLAN itself on all streams, at a raised rate, with an outage a minute. Memory is measured once a second;
its growth is the slope of the line through what came after the warm-up (a fifth of the time, five minutes at most).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from hardware import describe, header

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from number_model import ERA, mixed, number_recognizer
from rtsp_server import RtspServer

from vlf_edge import Limits, Plan, Runtime, memory
from vlf_edge.runtime.pipeline import Pipeline
from vlf_edge.runtime.stats import CAUSES
from vlf_edge.video import find_source

SIDE_PX, FPS = 240, 25.0
STALL_TIMEOUT_S = 2.0
RETURN_S = 60.0
KINDS = ("killed", "frozen", "changed")
_ERAS = 30  # numbers are of 16 bits


class Viewer:
    """Takes the steps of a pipeline and notes when each stream last decided."""

    def __init__(self, steps: Pipeline):
        self._steps, self._changed = steps, threading.Condition()
        self._decided_s: dict[str, float] = defaultdict(float)
        self.states: dict[str, int] = defaultdict(int)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._view, daemon=True)
        self._thread.start()

    def _view(self) -> None:
        try:
            for step in self._steps:
                with self._changed:
                    self.states[step.prediction.state] += 1
                    if step.prediction.state == "ok":
                        self._decided_s[step.stream] = time.monotonic()
                    self._changed.notify_all()
        except BaseException as error:
            self.error = error

    def resumed_s(self, streams: list[str], since_s: float, timeout_s: float = RETURN_S) -> list[float]:
        """Seconds from ``since_s`` to each stream's first decision after it; infinity for those that make none."""
        found: dict[str, float] = {}
        with self._changed:
            while len(found) < len(streams) and time.monotonic() < since_s + timeout_s and self.error is None:
                for name in streams:
                    if name not in found and self._decided_s[name] > since_s:
                        found[name] = self._decided_s[name] - since_s
                if len(found) < len(streams):
                    self._changed.wait(0.1)
        return [found.get(name, float("inf")) for name in streams]

    def close(self) -> None:
        self._steps.close()
        self._thread.join()


class Outages:
    """Takes a server away and brings it back, in one way after the other."""

    def __init__(self, server: RtspServer, seed: int = 0):
        self._server, self._random, self._era = server, random.Random(seed), 0

    def outage(self, kind: str) -> float:
        """Returns when the server was back, ``time.monotonic()``."""
        if kind == "frozen":
            self._server.freeze()
            time.sleep(STALL_TIMEOUT_S + self._random.uniform(0.5, 8))
            self._server.thaw()
            return time.monotonic()
        self._server.kill()
        time.sleep(self._random.uniform(0, 8))
        self._era = (self._era + 1) % _ERAS
        changed = {"width": SIDE_PX, "height": SIDE_PX, "fps": FPS}
        if kind == "changed":
            side_px = self._random.choice((160, 320))
            changed = {"width": side_px, "height": side_px, "fps": self._random.choice((15.0, 30.0))}
        self._server.start(first=self._era * ERA, **changed)
        return time.monotonic()


def run_rounds(rounds: int, streams: int, frames: int, span_s: float) -> dict[str, Any]:
    """Outages one after the other. Returns times to the first decision by kind, and what must be nought."""
    recognizer, windows = number_recognizer(frames, span_s)
    names = [f"camera {n}" for n in range(streams)]
    before = open_things()
    resumed_s: dict[str, list[float]] = defaultdict(list)
    with RtspServer(width=SIDE_PX, height=SIDE_PX, fps=FPS) as server:
        address, outages = find_source(server.url), Outages(server)
        limits = Limits(stall_timeout_s=STALL_TIMEOUT_S)
        began_s = time.monotonic()
        viewer = Viewer(Pipeline(recognizer, dict.fromkeys(names, address), limits=limits))
        resumed_s["start"] += viewer.resumed_s(names, began_s)
        for number in range(rounds):
            time.sleep(1.5)
            kind = KINDS[number % len(KINDS)]
            resumed_s[kind] += viewer.resumed_s(names, outages.outage(kind))
        viewer.close()
    again = [one for kind in KINDS for one in resumed_s[kind]]
    gc.collect()
    wait_for_threads(before["threads"])
    after = open_things()
    return {
        "rounds": rounds,
        "streams": streams,
        "sampling": {"frames": frames, "span_s": span_s},
        "resumed_s": {kind: spread(values) for kind, values in {**resumed_s, "all outages": again}.items() if values},
        "windows": len(windows),
        "mixed_windows": sum(map(mixed, windows)),
        "states": dict(viewer.states),
        "counts": dict(recognizer.total().counts),
        "counts_add_up": adds_up(recognizer),
        "threads_left": after["threads"] - before["threads"],
        "descriptors_left": after["descriptors"] - before["descriptors"],
    }


def soak(plan: str, minutes: float, streams: int, fps: float, phases: int, backend: str) -> dict[str, Any]:
    """PLAN on all streams with an outage a minute. Returns growth, and what is open, from warm-up to end."""
    names = [f"camera {n}" for n in range(streams)]
    samples: list[tuple[float, float]] = []
    with (
        RtspServer(width=SIDE_PX, height=SIDE_PX, fps=fps) as server,
        Runtime(plan, backend=backend, phases=phases) as runtime,
    ):
        address = find_source(server.url)
        viewer = Viewer(runtime.pipeline(dict.fromkeys(names, address), limits=Limits(stall_timeout_s=STALL_TIMEOUT_S)))
        viewer.resumed_s(names, time.monotonic())
        began_s = outage_s = time.monotonic()
        warm_s, early = began_s + min(300.0, minutes * 12), open_things()
        while (now_s := time.monotonic()) < began_s + minutes * 60:
            if now_s < warm_s:
                early = open_things()
            else:
                samples.append((now_s, resident_bytes()))
            if now_s - outage_s > 60:
                server.kill()
                time.sleep(2)
                server.start()
                viewer.resumed_s(names, time.monotonic())
                outage_s = time.monotonic()
            time.sleep(min(1.0, minutes * 6))
        viewer.resumed_s(names, time.monotonic())
        late, stats = open_things(), runtime.stats()
        adds = adds_up(runtime.recognizer)
        viewer.close()
    return {
        "minutes": minutes,
        "streams": streams,
        "fps": fps,
        "decisions_per_s": round(stats["counts"]["decisions"] / (time.monotonic() - began_s), 1),
        "reconnects": sum(stream["reconnects"] for stream in stats["streams"].values()),
        "memory_mb": round(samples[-1][1] / 1e6, 1),
        "growth_mb_per_hour": round(slope(samples) * 3600 / 1e6, 2),
        "threads": [early["threads"], late["threads"]],
        "descriptors": [early["descriptors"], late["descriptors"]],
        "counts": stats["counts"],
        "counts_add_up": adds,
        "age_ms": stats["ms"].get("age"),
    }


def adds_up(recognizer) -> bool:
    """Whether every frame of every stream is accounted for."""
    parts = ("encoded", "off_grid", "dropped", "failed", "waiting")
    found = [stream.stats.summary()["counts"] for stream in recognizer.streams.values()]
    return all(
        counts["captured"] == sum(counts[part] for part in parts)
        and counts["dropped"] == sum(counts[f"dropped_{cause}"] for cause in CAUSES)
        for counts in found
    )


def open_things() -> dict[str, int]:
    """Threads and descriptors of this process."""
    return {"threads": len(os.listdir("/proc/self/task")), "descriptors": len(os.listdir("/proc/self/fd"))}


def wait_for_threads(most: int, timeout_s: float = 15.0) -> None:
    """A read in FFmpeg ends by its own time limit only."""
    until_s = time.monotonic() + timeout_s
    while open_things()["threads"] > most and time.monotonic() < until_s:
        time.sleep(0.1)


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the line through them; 0 for fewer than two."""
    if len(samples) < 2:
        return 0.0
    times_s, values = np.array(samples).T
    return float(np.polyfit(times_s - times_s[0], values, 1)[0])


def spread(values_s: list[float]) -> dict[str, float]:
    """{"n", "p50", "p95", "max"}."""
    p50, p95 = np.percentile(values_s, (50, 95), method="higher")
    return {"n": len(values_s), "p50": round(p50, 2), "p95": round(p95, 2), "max": round(max(values_s), 2)}


def table(figures: dict[str, Any]) -> str:
    """For people."""
    lines = [header(figures["machine"])]
    if rounds := figures.get("rounds"):
        sampling = rounds["sampling"]
        lines.append(
            f"{rounds['rounds']} rounds, {rounds['streams']} streams, {sampling['frames']} frames in "
            f"{sampling['span_s']:g} s; seconds from the server's return to the first decision:"
        )
        for kind, one in rounds["resumed_s"].items():
            p50, p95, most = one["p50"], one["p95"], one["max"]
            lines.append(f"  {kind:12s} p50 {p50:6.2f}  p95 {p95:6.2f}  max {most:6.2f}  n {one['n']}")
        lines.append(
            f"  {rounds['mixed_windows']} of {rounds['windows']} windows mixed; counts add up: "
            f"{rounds['counts_add_up']}; {rounds['threads_left']} threads and {rounds['descriptors_left']} descriptors "
            "left"
        )
    if one := figures.get("soak"):
        lines.append(
            f"{one['minutes']:g} minutes, {one['streams']} streams at {one['fps']:g} fps, {one['decisions_per_s']} "
            f"decisions a second, {one['reconnects']} reconnects: {one['memory_mb']} MB, growing by "
            f"{one['growth_mb_per_hour']} MB an hour; threads {one['threads']}, descriptors {one['descriptors']} "
            f"(after the warm-up, at the end); counts add up: {one['counts_add_up']}"
        )
    return "\n".join(lines)


def main() -> None:
    memory.one_arena()  # as vlf-edge does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("plan", nargs="?", default="vlf_edge/weights/vlf-tiny.plan", metavar="PLAN", help="default: the shipped fp32")
    add("--rounds", type=int, default=100, metavar="N", help="outages, timed (default: 100; 0 for none)")
    add("--minutes", type=float, default=30.0, metavar="M", help="of the soak (default: 30; 0 for none)")
    add("--streams", type=int, default=4, metavar="N", help="default: 4")
    add("--fps", type=float, default=50.0, metavar="HZ", help="of the soak (default: 50)")
    add("--phases", type=int, default=8, metavar="P", help="sampling grids of each stream in the soak (default: 8)")
    add("--backend", default="openvino", help="of the soak (default: openvino)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    sampling = Plan.open(args.plan).manifest.sampling
    figures: dict[str, Any] = {"machine": describe("numpy", "openvino", "av")}
    if args.rounds:
        figures["rounds"] = run_rounds(args.rounds, args.streams, sampling.frames, sampling.span_s)
    if args.minutes:
        figures["soak"] = soak(args.plan, args.minutes, args.streams, args.fps, args.phases, args.backend)
    print(json.dumps(figures, indent=2) if args.json else table(figures))


if __name__ == "__main__":
    main()
