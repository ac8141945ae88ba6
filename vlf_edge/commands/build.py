"""Build a plan: from the weights that come with vlf-edge, from yours, or from an earlier plan.

vlf-edge build --precision int8                                                  the weights that come with vlf-edge
vlf-edge build --precision int8 --weights W.safetensors --calib-data my-clips/   weights -> vlf.plan
vlf-edge build base.plan --precision int8 --calib-data my-clips/                 requantise; needs no torch
vlf-edge build vlf.plan --target rtx                                             add an engine to a plan

Every build ends with a report: how near each way of running the plan here comes to fp32. An int8 plan that loses more
than --max-drop gets its costliest nodes back in float; if that is not enough there is no plan, and exit code 3.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import VlfError
from .progress import Progress

HELP = "make a vlf.plan from weights or from an earlier plan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every default is None here: what a recipe says holds unless the command line says otherwise."""
    add = parser.add_argument
    add("base", nargs="?", metavar="BASE.plan", help="start from this plan's fp32 graphs instead of weights")
    add(
        "--precision",
        choices=("fp32", "fp16", "int8", "best"),
        help="arithmetic of the engines; best is fp16 or int8, whichever is faster on this machine and passes the gate "
        "(default: BASE's, else fp16)",
    )
    add("--model", choices=("vlf", "vlf-lite", "vlf-tiny"), help="sizes for --random-weights (default: vlf-tiny)")
    add(
        "--weights",
        metavar="FILE",
        help=".safetensors or .pt (weights only, never unpickled), or vlf-tiny, which comes with vlf-edge",
    )
    add("--random-weights", action="store_true", default=None, help="untrained weights: runs, but labels mean nothing")
    add("--labels", metavar="FILE", help="class names for --random-weights, one a line")
    add("--seed", type=int, metavar="N", help="seed of --random-weights (default: 0)")
    add(
        "--calib-data",
        nargs="+",
        metavar="CLIPS",
        help="videos that INT8 is calibrated and measured on, taken as the live runtime takes them: files, folders, "
        "globs, annotation files, test://motion, or motion (rendered clips of known labels); a folder named after a "
        "label tells what its clips show (default for the weights that come with vlf-edge: motion)",
    )
    add("--calib-samples", type=int, metavar="N", help="windows of K frames to calibrate on (default: 64)")
    add(
        "--calib-method",
        choices=("minmax", "entropy", "percentile"),
        help="how ranges are chosen (default: percentile)",
    )
    add("--percentile", type=float, metavar="PERCENT", help="for --calib-method percentile (default: 99.99)")
    add(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="what the plan may lose against fp32 in the worst way of running it here: points of accuracy where labels "
        "are known, else per cent of decisions that differ (default: 1.0)",
    )
    add(
        "--target",
        metavar="TARGET",
        help="engines to compile: auto (all this machine can), cpu (none: the portable graph runs), "
        "rtx (Ampere and later), rtx-turing, rtx:smNN such as rtx:sm86, tensorrt (this machine's GPU); several with "
        "commas (default: auto)",
    )
    add(
        "--frontend",
        choices=("onnx", "torch-tensorrt"),
        help="what engines are compiled from: the plan's own graphs, or the PyTorch modules of --weights through "
        "Torch-TensorRT, which needs a GPU and a PyTorch for it (default: onnx)",
    )
    add("--max-batch", type=int, metavar="N", help="largest batch of the engines (default: 8)")
    add("--opt-batch", type=int, metavar="N", help="batch that the engines are to be fastest at (default: 1)")
    add(
        "--workspace-mib",
        type=int,
        metavar="MIB",
        help="memory TensorRT's builder may use (default: TensorRT's, which may be all)",
    )
    add(
        "--span", type=float, metavar="S", dest="span_s", help="seconds one window covers (default: as trained, else 2)"
    )
    add(
        "--recipe",
        nargs="+",
        default=[],
        metavar="FILE",
        help="TOML files with any of these settings, such as engines/rtx.toml and calibration/motion.toml, which come "
        "with vlf-edge; later files win, and the command line wins over all",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write (default: vlf.plan; BASE itself when only adding engines)",
    )
    add("--json", action="store_true", help="print the manifest and the report as JSON")


def main(args: argparse.Namespace) -> int:
    """Builds; prints a summary of the new plan, with what its stages take on this machine."""
    from ..compiler import build, load_recipe
    from ..compiler.accuracy.timing import plan_times
    from .inspect import describe, to_json

    names = ("precision", "model", "weights", "random_weights", "seed", "calib_samples", "calib_method", "percentile")
    names += ("max_drop", "frontend", "target", "max_batch", "opt_batch", "workspace_mib", "span_s")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in (*(args.calib_data or ()), *args.recipe):
        if name.endswith(".plan"):
            raise VlfError(
                f"--calib-data or --recipe took {name} for one of its files; name the base plan first: "
                f"vlf-edge build {name} ..."
            )
    if args.calib_data:
        changes["calib_data"] = tuple(args.calib_data)
    if args.labels:
        changes["labels"] = read_labels(args.labels)
    recipe = load_recipe(*args.recipe, **changes)
    plan = build(recipe, args.output, base=args.base, progress=Progress())
    times_ms = plan_times(plan)
    if args.json:
        json.dump({**to_json(plan), "ms": times_ms}, sys.stdout, indent=1)
        print()
    else:
        print(describe(plan, times_ms))
    return 0


def read_labels(path: str) -> tuple[str, ...]:
    """Class names from a text file, one a line; empty lines are skipped. Raises VlfError."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VlfError(f"cannot read the labels {path}: {error}") from None
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise VlfError(f"{path} holds no labels; expected one a line")
    return labels
