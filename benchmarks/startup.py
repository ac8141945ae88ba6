"""How long vlf_edge takes to start, each figure the median of fresh processes on a warm disk.

  python benchmarks/startup.py [--model vlf-tiny vlf] [--precisions fp32 int8] [--runs N]

import           `import vlf_edge`, timed inside the process
help             `vlf-edge --help`, the whole process, beside one of Python that does nothing; and which heavy
                 modules it loaded, of which there should be none
first decision   from before `from vlf_edge import Runtime` to the first decision over K images of 640x480 px, pushed
                 one by one or classified as a clip: imports, opening the plan, deciding
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hardware import describe, header
from plans import VLF_SIZES, build_plans, open_plans

GOAL_IMPORT_S = 0.15
GOAL_FIRST_DECISION_S = 1.5
HEAVY = ("torch", "onnx", "cv2", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
BACKENDS = ("openvino", "onnxruntime")

IMPORT = """
import time
start_s = time.perf_counter()
import vlf_edge
print(time.perf_counter() - start_s)
"""

HELP = """
import sys
from vlf_edge.cli import main
try:
    main(["--help"])
except SystemExit as exit:
    assert not exit.code, exit.code
print(*sys.modules, file=sys.stderr)
"""

# Prints the seconds for imports, opening and deciding. Rendering the images is left out.
FIRST_DECISION = """
import sys, time
plan, backend, how = sys.argv[1:]
start_s = time.perf_counter()
from vlf_edge import Runtime
imported_s = time.perf_counter()
runtime = Runtime(plan, backend=backend)
opened_s = time.perf_counter()
import numpy as np
sampling = runtime.recognizer.sampling
images = np.random.default_rng(0).integers(0, 256, (sampling.frames, 480, 640, 3), np.uint8)
ready_s = time.perf_counter()
if how == "push":
    for i, image in enumerate(images):
        prediction = runtime.push(image, i * sampling.step_s)
else:
    prediction = runtime.classify(images)
decided_s = time.perf_counter()
assert prediction.state == "ok", prediction
print(imported_s - start_s, opened_s - imported_s, decided_s - ready_s)
"""


def run(code: str, *arguments: str) -> tuple[str, str, float]:
    """(stdout, stderr, seconds) of a fresh process."""
    start_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    took_s = time.perf_counter() - start_s
    if done.returncode:
        sys.exit(f"a measured process failed:\n{done.stderr}")
    return done.stdout, done.stderr, took_s


def measure_import(runs: int) -> dict[str, float]:
    run(IMPORT)  # warms the disk
    return {"import_s": statistics.median(float(run(IMPORT)[0]) for _ in range(runs)), "goal_s": GOAL_IMPORT_S}


def measure_help(runs: int) -> dict[str, Any]:
    _, modules, _ = run(HELP)
    loaded = {name.partition(".")[0] for name in modules.split()}
    return {
        "help_s": statistics.median(run(HELP)[2] for _ in range(runs)),
        "python_alone_s": statistics.median(run("")[2] for _ in range(runs)),
        "heavy_modules": sorted(loaded.intersection(HEAVY)),
    }


def measure_first_decision(plan: Path, backend: str, how: str, runs: int) -> dict[str, float]:
    """Medians of the parts; total_s is the median of their sums."""
    run(FIRST_DECISION, str(plan), backend, how)  # warms the disk
    parts = [tuple(map(float, run(FIRST_DECISION, str(plan), backend, how)[0].split())) for _ in range(runs)]
    medians = (statistics.median(values) for values in zip(*parts))
    named = dict(zip(("import_s", "open_s", "first_decision_s"), medians))
    return {**named, "total_s": statistics.median(map(sum, parts)), "goal_s": GOAL_FIRST_DECISION_S}


def measure_plans(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Every plan on every CPU backend, pushed and classified."""
    if args.plan:
        plans = list(open_plans(args.plan).values())
    else:
        plans = [plan for model in args.model for plan in build_plans(model, args.precisions, folder).values()]
    return [
        {
            "model": plan.manifest.model.get("name"),
            "precision": plan.manifest.precision,
            "backend": backend,
            "how": how,
            **measure_first_decision(plan.path, backend, how, args.runs),
        }
        for plan in plans
        for backend in args.backends
        for how in ("push", "classify")
    ]


def table(figures: dict[str, Any]) -> str:
    """For people."""
    imported, helped = figures["import"], figures["help"]
    lines = [
        header(figures["machine"]),
        f"medians of {figures['runs']} fresh processes",
        "",
        f"import vlf_edge   {imported['import_s']:.3f} s (goal: under {imported['goal_s']} s)",
        f"vlf-edge --help   {helped['help_s']:.3f} s, of which Python alone {helped['python_alone_s']:.3f} s; "
        f"heavy modules loaded: {', '.join(helped['heavy_modules']) or 'none'} (goal: none)",
        "",
        f"{'first decision':39s} {'import s':>9s} {'open s':>7s} {'decide s':>9s} {'total s':>8s}",
    ]
    for row in figures["first_decision"]:
        lines.append(
            f"{row['model']:9s} {row['precision']:5s} {row['backend']:13s} {row['how']:9s} {row['import_s']:9.3f} "
            f"{row['open_s']:7.3f} {row['first_decision_s']:9.3f} {row['total_s']:8.3f} (goal: under {row['goal_s']} s)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", nargs="+", choices=VLF_SIZES, default=["vlf-tiny"], help="default: vlf-tiny")
    add("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"], help="default: both")
    add("--plan", nargs="+", metavar="PLAN", help="open these plans of one model instead of building some")
    add("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="default: both")
    add("--runs", type=int, default=5, metavar="N", help="fresh processes for each figure (default: 5)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    args.runs = max(1, args.runs)
    figures = {
        "machine": describe("numpy", "opencv-python", *args.backends),
        "runs": args.runs,
        "import": measure_import(args.runs),
        "help": measure_help(args.runs),
    }
    with tempfile.TemporaryDirectory() as folder:
        figures["first_decision"] = measure_plans(args, Path(folder))
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
