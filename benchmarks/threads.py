"""What a decision costs on cores that others use too, for each way of placing the CPU libraries' threads.

  python benchmarks/threads.py [--plan vlf_edge/weights/vlf-tiny.plan] [--neighbours 0 1 2 3] [--rounds N] [--peers]

Each figure is of fresh processes that open the plan and decide, while so many neighbours run: processes that compute
without a pause or, with --peers, further processes that decide on the same plan in the same way. Ways take turns within
a round, so that a drift of the machine meets them all; medians are of the rounds, and ratios are to the way that the
package takes, round by round.

open   seconds to open both stages
p50    ms of a decision (frame stage and clip stage on one frame), median of a process
worst  ms of the slowest decision of a process
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hardware import describe, header

SHIPPED = Path(__file__).resolve().parents[1] / "vlf_edge" / "weights" / "vlf-tiny.plan"
CORES = len(os.sched_getaffinity(0))
TAKEN = "as shipped"
# {backend: {way: (settings of the library, threads)}}
WAYS: dict[str, dict[str, tuple[dict[str, Any], int | None]]] = {
    "openvino": {
        TAKEN: ({}, None),
        "as shipped, 1 thread": ({}, 1),
        "pinned": ({"ENABLE_CPU_PINNING": True}, None),
        "pinned, 1 thread": ({"ENABLE_CPU_PINNING": True}, 1),
        "throughput hint": ({"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 1}, None),
    },
    "onnxruntime": {
        TAKEN: ({}, None),
        "as shipped, 1 thread": ({}, 1),
        "as many, not pinned": ({}, CORES),  # of threads asked for by number it pins none
        "no spinning": ({"session.intra_op.allow_spinning": "0"}, None),
    },
}

DECIDE = """
import importlib, json, sys, time
import numpy as np
from vlf_edge import Plan
from vlf_edge.backends.selection import open_engines
path, backend, settings, threads, decisions = json.loads(sys.argv[1])
importlib.import_module(f"vlf_edge.backends.{backend}").SETTINGS.update(settings)
start_s = time.perf_counter()
engines = open_engines(Plan.open(path), backend=backend, threads=threads)
open_s = time.perf_counter() - start_s
inputs = {
    stage: {s.name: np.zeros([1 if isinstance(n, str) else n for n in s.shape], s.dtype) for s in engine.inputs}
    for stage, engine in engines.items()
}
took_ms = []
while len(took_ms) < decisions + 5:
    start_s = time.perf_counter()
    for stage, engine in engines.items():
        engine.infer(inputs[stage])
    took_ms.append((time.perf_counter() - start_s) * 1e3)
    time.sleep(0.002)  # a camera's pause: what spins in it, spins on somebody's core
took_ms = took_ms[5:]
print(json.dumps([open_s, float(np.median(took_ms)), max(took_ms)]))
"""
SPIN = "while True: pass"
ENDLESS = 10**9


def command(plan: Path, backend: str, way: str, decisions: int) -> list[str]:
    settings, threads = WAYS[backend][way]
    return [sys.executable, "-c", DECIDE, json.dumps([str(plan), backend, settings, threads, decisions])]


def measure_once(plan: Path, backend: str, way: str, neighbours: int, peers: bool, decisions: int) -> list[float]:
    """[open_s, p50_ms, worst_ms] of one process beside so many neighbours."""
    beside = command(plan, backend, way, ENDLESS) if peers else [sys.executable, "-c", SPIN]
    with ExitStack() as running:
        for _ in range(neighbours):
            neighbour = running.enter_context(subprocess.Popen(beside))
            running.callback(neighbour.kill)
        if peers and neighbours:
            time.sleep(3)  # until they decide
        done = subprocess.run(command(plan, backend, way, decisions), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"a measured process failed:\n{done.stderr}")
    return json.loads(done.stdout)


def measure(args: argparse.Namespace, backend: str, neighbours: int) -> list[dict[str, Any]]:
    """A row for each way, beside so many neighbours."""
    ways = WAYS[backend]
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way in ways:
            found[way].append(measure_once(args.plan, backend, way, neighbours, args.peers, args.decisions))
    rows = []
    for way, runs in found.items():
        open_s, p50_ms, worst_ms = zip(*runs)
        ratios = [run[1] / taken[1] for run, taken in zip(runs, found[TAKEN])]
        rows.append(
            {
                "backend": backend,
                "way": way,
                "neighbours": neighbours,
                "open_s": statistics.median(open_s),
                "open_worst_s": max(open_s),
                "p50_ms": statistics.median(p50_ms),
                "p50_ratio": statistics.median(ratios),
                "worst_ms": max(worst_ms),
            }
        )
    return rows


def table(figures: dict[str, Any]) -> str:
    """For people."""
    kind = "deciding on the same plan" if figures["peers"] else "computing without a pause"
    lines = [
        header(figures["machine"]),
        f"{figures['plan']}; {figures['rounds']} processes a figure, {figures['decisions']} decisions each",
        f"neighbours: processes {kind}",
        "",
        f"{'backend':12s} {'way':22s} {'neighbours':>10s} {'open s':>7s} {'worst':>6s} {'p50 ms':>7s} {'ratio':>6s} "
        f"{'worst ms':>9s}",
    ]
    for row in figures["rows"]:
        lines.append(
            f"{row['backend']:12s} {row['way']:22s} {row['neighbours']:10d} {row['open_s']:7.2f} "
            f"{row['open_worst_s']:6.2f} {row['p50_ms']:7.2f} {row['p50_ratio']:6.2f} {row['worst_ms']:9.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--plan", type=Path, default=SHIPPED, metavar="PLAN", help="default: the shipped vlf-tiny")
    add("--backends", nargs="+", choices=tuple(WAYS), default=list(WAYS), help="default: both")
    add("--neighbours", nargs="+", type=int, default=[0, 1, 2, 3], metavar="N", help="default: 0 1 2 3")
    add("--peers", action="store_true", help="neighbours are processes that decide on the same plan")
    add("--rounds", type=int, default=5, metavar="N", help="processes for each figure (default: 5)")
    add("--decisions", type=int, default=200, metavar="N", help="timed in each process (default: 200)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    figures = {
        "machine": describe("numpy", *args.backends),
        "plan": str(args.plan),
        "peers": args.peers,
        "rounds": args.rounds,
        "decisions": args.decisions,
        "rows": [row for backend in args.backends for n in args.neighbours for row in measure(args, backend, n)],
    }
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
