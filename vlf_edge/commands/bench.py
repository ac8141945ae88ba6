"""Time a plan on this machine: preprocessing, both stages, and the whole way from a frame to a decision.

Frames come from the test pattern, rendered beforehand. Each one is encoded and decided on, as with a camera
that delivers exactly one frame per sampling instant.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import Any

from ..errors import VlfError
from ..printable import printable
from .backend import add_backend_arguments, backend_options

HELP = "time a plan on this machine"
_DISTINCT_FRAMES = 32
_STAGES = ("frame_stage", "clip_stage")  # a plan has one of them or both


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add_backend_arguments(parser)
    add("--decisions", type=int, default=200, metavar="N", help="decisions to time (default: 200)")
    add("--size", default="640x480", metavar="WxH", help="size of the camera's frames in px (default: 640x480)")
    add("--json", action="store_true", help="print the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Measures and prints a table."""
    from ..runtime import Runtime

    width, height = _size(args.size)
    if args.decisions < 1:
        raise VlfError(f"--decisions is {args.decisions}; expected 1 or more")
    with Runtime(args.plan, **backend_options(args)) as runtime:
        figures = measure(runtime, width, height, args.decisions)
    if args.json:
        print(json.dumps(figures, indent=1))
    else:
        print(_table(figures))
    return 0


def measure(runtime: Any, width: int, height: int, decisions: int) -> dict[str, Any]:
    """Pushes ``decisions`` frames past a full window. Returns hardware, counts and spreads of durations in ms."""
    from ..video.motion_pattern import MotionOptions, MotionPattern

    manifest, recognizer = runtime.plan.manifest, runtime.recognizer
    pattern = MotionPattern(MotionOptions(width=width, height=height))
    images = [pattern.render(i * 0.1) for i in range(_DISTINCT_FRAMES)]
    grid_s, warm_up = recognizer.sampling.grid_s, 2 * recognizer.sampling.frames * recognizer.sampling.phases
    for i in range(warm_up + decisions):
        if i == warm_up:
            recognizer.stats.reset()
        runtime.push(images[i % len(images)], i * grid_s)
    durations = recognizer.stats.summary()["ms"]
    parts = sum(durations[kind]["mean"] for kind in _STAGES if kind in durations)
    own = 1 - parts / durations["decision"]["mean"]
    return {
        "plan": str(runtime.plan.path),
        "model": manifest.model.get("name"),
        "precision": manifest.precision,
        "backend": runtime.backend,
        "cpu": cpu_model(),
        "frame_px": [width, height],
        "decisions": decisions,
        "ms": durations,
        "decisions_per_s": round(1e3 / durations["decision"]["mean"], 2),
        "runtime_share": round(own, 4),
    }


def _table(figures: dict[str, Any]) -> str:
    width, height = figures["frame_px"]
    rows = [
        f"{figures['model']} {figures['precision']} on {figures['backend']}, {width}x{height} frames, {figures['cpu']}",
        f"{'ms':12s} {'p50':>8s} {'p95':>8s} {'p99':>8s} {'mean':>8s}",
    ]
    for kind in filter(figures["ms"].get, ("preprocess", *_STAGES, "decision")):
        spread = figures["ms"][kind]
        values = " ".join(f"{spread[name]:8.3f}" for name in ("p50", "p95", "p99", "mean"))
        rows.append(f"{kind.replace('_', ' '):12s} {values}")
    rows.append(
        f"{figures['decisions_per_s']:.1f} decisions a second; all but the model is "
        f"{figures['runtime_share']:.1%} of a decision"
    )
    return "\n".join(map(printable, rows))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if not match or min(map(int, match.groups())) < 16:
        raise VlfError(f"--size is {text!r}; expected width x height in px, such as 640x480")
    return int(match[1]), int(match[2])


def cpu_model() -> str:
    """The processor's name and how many of its cores this process may use."""
    from ..backends.cpu import cpu_name

    return f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores"
