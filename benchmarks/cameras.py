"""How many cameras does one process carry? Decisions a second and their age, up to saturation.

    python benchmarks/cameras.py [PLAN] [--cameras 1 2 4 8 16 32] [--phases 8] [--max-batch-delay-ms 0]

Cameras are simulated: threads that hand over ready images at 30 a second, as real cameras do, so that neither decoding
nor a network is part of it. For each number of cameras two ways are timed, one after the other, round after round:

  one runtime   all cameras as streams of one Runtime, in one process
  processes     one process with a Runtime of its own for each camera

A row says how many decisions were made of those that the cameras asked for, and how old they were when the caller got
them (from capture). A way is saturated where it makes fewer than 98 % of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
from hardware import describe, header

from vlf_edge import Frame, Plan, Runtime, Source
from vlf_edge.video.motion_pattern import MotionOptions, MotionPattern

CAMERA_PX = (640, 480)
FPS = 30.0
WARM_UP_S = 3.0
SATURATED = 0.98


class SimulatedCamera(Source):
    """Ready images at a steady rate, the newest when asked late, as a driver gives them. ends_s: time.monotonic()."""

    live = True
    fps = FPS

    def __init__(self, images: list[np.ndarray], ends_s: float, offset_s: float):
        super().__init__("camera")
        self._images, self._ends_s = images, ends_s
        self._start_s = time.monotonic() + offset_s
        self._closed = False

    def read(self) -> Frame | None:
        number = max(self._seq, int((time.monotonic() - self._start_s) * FPS))
        due_s = self._start_s + number / FPS
        time.sleep(max(0.0, due_s - time.monotonic()))
        if self._closed or time.monotonic() >= self._ends_s:
            return None
        self._seq = number
        return self._frame(self._images[number % len(self._images)], due_s)

    def close(self) -> None:
        self._closed = True


def run_cameras(
    plan: str, count: int, seconds: float, phases: int, delay_ms: float, backend: str, at_s: float
) -> dict[str, Any]:
    """Streams ``count`` cameras through one Runtime from ``at_s`` (time.monotonic()) on; ages in ms."""
    pattern = MotionPattern(MotionOptions(width=CAMERA_PX[0], height=CAMERA_PX[1]))
    images = [pattern.render(i / 10) for i in range(16)]
    with Runtime(plan, backend=backend, phases=phases) as runtime:
        runtime.classify(images)
        time.sleep(max(0.0, at_s - time.monotonic()))
        begins_s = time.monotonic() + WARM_UP_S
        ends_s = begins_s + seconds
        sources = {f"camera {n}": SimulatedCamera(images, ends_s, n / count / FPS) for n in range(count)}
        ages_ms = [
            prediction.age_ms
            for prediction in runtime.stream(sources, max_batch_delay_ms=delay_ms)
            if prediction.state == "ok" and time.monotonic() >= begins_s
        ]
        counts = runtime.stats()["counts"]
    return {"ages_ms": ages_ms, "dropped": counts["dropped"], "undelivered": counts["undelivered"]}


def run_processes(arguments: list[str], count: int, seconds: float) -> dict[str, Any]:
    """The same with a process for each camera, all starting together."""
    at_s = time.monotonic() + 4.0 + 1.5 * count
    command = [sys.executable, __file__, *arguments, "--worker", str(at_s), "--seconds", str(seconds)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    found = [json.loads(worker.communicate(timeout=seconds + 60 + 8 * count)[0]) for worker in workers]
    return {
        "ages_ms": [age for one in found for age in one["ages_ms"]],
        "dropped": sum(one["dropped"] for one in found),
        "undelivered": sum(one["undelivered"] for one in found),
    }


def row(way: str, count: int, run: dict[str, Any], asked: float, seconds: float) -> dict[str, Any]:
    """The figures of one way with so many cameras."""
    ages_ms = np.array(run["ages_ms"] or [np.nan])
    p50_ms, p99_ms = np.percentile(ages_ms, (50, 99))
    made = len(run["ages_ms"]) / seconds
    return {
        "way": way,
        "cameras": count,
        "asked_per_s": round(asked * count, 1),
        "decisions_per_s": round(made, 1),
        "share": round(made / (asked * count), 3),
        "p50_age_ms": round(float(p50_ms), 2),
        "p99_age_ms": round(float(p99_ms), 2),
        "dropped": run["dropped"],
        "undelivered": run["undelivered"],
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both ways for every number of cameras; a way that was saturated is not tried with more."""
    sampling = Plan.open(args.plan).manifest.sampling
    # A frame serves all instants since the last one, but makes one decision.
    asked = min(FPS, args.phases / sampling.step_s)
    options = ["--phases", str(args.phases), "--max-batch-delay-ms", str(args.max_batch_delay_ms)]
    arguments = [args.plan, *options, "--backend", args.backend]
    rows: list[dict[str, Any]] = []
    for count in args.cameras:
        over = {one["way"] for one in rows if one["share"] < SATURATED}
        if "one runtime" not in over:
            run = run_cameras(
                args.plan, count, args.seconds, args.phases, args.max_batch_delay_ms, args.backend, time.monotonic()
            )
            rows.append(row("one runtime", count, run, asked, args.seconds))
        if "processes" not in over and count <= args.most_processes:
            rows.append(row("processes", count, run_processes(arguments, count, args.seconds), asked, args.seconds))
    return {
        "plan": args.plan,
        "backend": args.backend,
        "camera_px": list(CAMERA_PX),
        "camera_fps": FPS,
        "decisions_per_camera_s": round(asked, 2),
        "max_batch_delay_ms": args.max_batch_delay_ms,
        "rows": rows,
    }


def table(figures: dict[str, Any]) -> str:
    """For people."""
    lines = [
        header(figures["machine"]),
        f"{figures['plan']} on {figures['backend']}: {figures['decisions_per_camera_s']} decisions a second asked of "
        f"each camera, frames wait at most {figures['max_batch_delay_ms']:g} ms for others",
        "",
        f"{'way':12s} {'cameras':>7s} {'asked/s':>8s} {'made/s':>8s} {'share':>6s} {'age p50':>8s} {'age p99 ms':>10s}"
        f" {'dropped':>8s} {'undelivered':>11s}",
    ]
    for one in figures["rows"]:
        lines.append(
            f"{one['way']:12s} {one['cameras']:7d} {one['asked_per_s']:8.1f} {one['decisions_per_s']:8.1f} "
            f"{one['share']:6.1%} {one['p50_age_ms']:8.1f} {one['p99_age_ms']:10.1f} {one['dropped']:8d} "
            f"{one['undelivered']:11d}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("plan", nargs="?", default="vlf_edge/weights/vlf-tiny.plan", metavar="PLAN", help="default: the shipped fp32")
    add("--cameras", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64], metavar="N", help="default: 1 to 64")
    add("--seconds", type=float, default=10.0, metavar="S", help="of each run, after warming up (default: 10)")
    add("--phases", type=int, default=8, metavar="P", help="sampling grids of each camera (default: 8)")
    add("--max-batch-delay-ms", type=float, default=0.0, metavar="MS", help="wait for frames of others (default: 0)")
    add("--backend", default="openvino", help="default: openvino")
    add("--most-processes", type=int, default=16, metavar="N", help="no more processes than this (default: 16)")
    add("--worker", type=float, metavar="AT_S", help=argparse.SUPPRESS)
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.worker is not None:
        run = run_cameras(
            args.plan, 1, args.seconds, args.phases, args.max_batch_delay_ms, args.backend, at_s=args.worker
        )
        print(json.dumps(run))
        return
    figures = {"machine": describe("numpy", "opencv-python", args.backend), **measure(args)}
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
