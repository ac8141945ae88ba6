"""One decision costs one frame encode and one clip run: streaming against running the whole clip anew.

    python benchmarks/streaming.py [--model vlf] [--precisions fp32 int8] [--backends openvino onnxruntime torch]

Every way turns each new camera image into one decision over the last K images, preprocessing included:

  streaming    the Recognizer: the new image is encoded, the tokens of the others come from its ring
  whole clip   all K images are encoded as one batch, then the clip stage runs, in the same engine
  torch        both ways in eager PyTorch under inference_mode, in float32

All ways see the same images and run in one process, in turns: a few decisions of one, then of the next, round after
round, so that a drift of the machine hits all alike. The first decision of a turn is not timed: it pays for caches
and threads that the way before left behind. Weights are random unless --plan names plans: time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from hardware import describe, header
from plans import VLF_SIZES, build_plans, open_plans
from ways import Way, eager, streaming, whole_clip

from vlf_edge import Plan
from vlf_edge.runtime import Recognizer
from vlf_edge.video.motion_pattern import MotionOptions, MotionPattern

CAMERA_PX = (640, 480)
BACKENDS = ("openvino", "onnxruntime", "torch")
DISTINCT_IMAGES = 32
TURN = 5  # timed decisions of one way before it is the next one's turn


def measure(plans: dict[str, Plan], backends: list[str], decisions: int) -> dict[str, Any]:
    """Runs all ways in turns; returns plain JSON values."""
    any_plan = next(iter(plans.values()))
    recognizers, ways = {}, []
    with ExitStack() as stack:
        for backend in backends:
            if backend == "torch":
                ways += [eager(any_plan, "streaming"), eager(any_plan, "whole clip")]
                continue
            for precision, plan in plans.items():
                way, recognizers[backend, precision] = streaming(plan, backend, stack)
                ways += [way, whole_clip(plan, backend, stack)]
        images = camera_images()
        fill(ways, images[: any_plan.manifest.sampling.frames])
        for recognizer in recognizers.values():
            recognizer.stats.reset()
        take_turns(ways, images, decisions)
        shares = [
            {"engine": backend, "precision": precision, **runtime_share(recognizer)}
            for (backend, precision), recognizer in recognizers.items()
        ]
    manifest = any_plan.manifest
    return {
        "model": manifest.model.get("name"),
        "random_weights": manifest.random_weights,
        "frames_per_clip": manifest.sampling.frames,
        "image_px": [manifest.preprocess.width_px, manifest.preprocess.height_px],
        "camera_px": list(CAMERA_PX),
        "decisions": decisions,
        "ways": rows(ways),
        "runtime_share": shares,
    }


def camera_images() -> list[np.ndarray]:
    """What every way sees, over and over."""
    pattern = MotionPattern(MotionOptions(width=CAMERA_PX[0], height=CAMERA_PX[1]))
    return [pattern.render(i * 0.1) for i in range(DISTINCT_IMAGES)]


def fill(ways: list[Way], images: list[np.ndarray]) -> None:
    """Fills every way's window; work is counted from here on."""
    for way in ways:
        for image in images:
            way.run(image, timed=False)
        way.decisions = 0
        way.work.update(frame=0, clip=0)


def take_turns(ways: list[Way], images: list[np.ndarray], decisions: int) -> None:
    """Lets each way make one untimed decision and TURN timed ones, round after round, all on the same images."""
    stream = cycle(images)
    for start in range(0, decisions, TURN):
        turn = list(islice(stream, 1 + min(TURN, decisions - start)))
        for way in ways:
            for i, image in enumerate(turn):
                way.run(image, timed=i > 0)


def rows(ways: list[Way]) -> list[dict[str, Any]]:
    """The figures of each way. difference: of the last logits to streaming's, relative to their largest."""
    base = {(way.engine, way.precision): way for way in ways if way.name == "streaming"}
    found = []
    for way in ways:
        own = base[way.engine, way.precision]
        p50_ms, p95_ms = np.percentile(way.times_ms, (50, 95))
        found.append(
            {
                "way": way.name,
                "engine": way.engine,
                "precision": way.precision,
                "p50_ms": round(p50_ms, 3),
                "p95_ms": round(p95_ms, 3),
                "times_streaming": round(p50_ms / np.median(own.times_ms), 2),
                "frames_per_decision": way.work["frame"] / way.decisions,
                "clip_runs_per_decision": way.work["clip"] / way.decisions,
                "difference": float(np.abs(way.logits - own.logits).max() / np.abs(own.logits).max()),
            }
        )
    return found


def runtime_share(recognizer: Recognizer) -> dict[str, float]:
    """Medians in ms of a decision and its parts, and the share that is not spent in the two engines."""
    p50_ms = {kind: spread["p50"] for kind, spread in recognizer.stats.summary()["ms"].items()}
    engines_ms = p50_ms["frame_stage"] + p50_ms["clip_stage"]
    share = round(1 - engines_ms / p50_ms["decision"], 4)
    return {**{f"{kind}_ms": value for kind, value in p50_ms.items()}, "share": share}


def table(figures: dict[str, Any]) -> str:
    """For people."""
    weights = "random weights" if figures["random_weights"] else "trained weights"
    (width, height), (camera_width, camera_height) = figures["image_px"], figures["camera_px"]
    lines = [
        header(figures["machine"]),
        f"{figures['model']}, {weights}: {figures['frames_per_clip']} images of {width}x{height} px a decision, "
        f"camera {camera_width}x{camera_height} px, {figures['decisions']} decisions each, in turns",
        "",
        f"{'way':11s} {'engine':12s} {'':5s} {'p50 ms':>8s} {'p95 ms':>8s} {'x streaming':>12s} {'frames':>7s}"
        f" {'clip runs':>10s} {'difference':>11s}",
    ]
    for row in figures["ways"]:
        lines.append(
            f"{row['way']:11s} {row['engine']:12s} {row['precision']:5s} {row['p50_ms']:8.2f} {row['p95_ms']:8.2f} "
            f"{row['times_streaming']:12.2f} {row['frames_per_decision']:7.2f} {row['clip_runs_per_decision']:10.2f}"
            f" {row['difference']:11.1e}"
        )
    kinds = ("decision", "preprocess", "frame_stage", "clip_stage")
    lines += ["", f"{'streaming, p50 ms':24s} {'  '.join(kinds)}  runtime's own share"]
    for row in figures["runtime_share"]:
        values = "  ".join(f"{row[f'{kind}_ms']:{len(kind)}.3f}" for kind in kinds)
        lines.append(f"{row['engine']:18s} {row['precision']:5s} {values}  {row['share']:19.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=VLF_SIZES, default="vlf-tiny", help="default: vlf-tiny")
    add("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"], help="default: both")
    add("--plan", nargs="+", metavar="PLAN", help="measure these plans of one model instead of building some")
    add("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="default: all")
    add("--decisions", type=int, default=100, metavar="N", help="timed decisions of each way (default: 100)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    machine = describe("numpy", "opencv-python", *args.backends)
    with tempfile.TemporaryDirectory() as folder:
        plans = open_plans(args.plan) if args.plan else build_plans(args.model, args.precisions, Path(folder))
        figures = {"machine": machine, **measure(plans, args.backends, max(1, args.decisions))}
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
