"""Build a plan: from weights, or from an earlier plan.

vlf-edge build --precision int8 --weights W.safetensors --calib-data my-clips/   weights -> vlf.plan
vlf-edge build base.plan --precision int8 --calib-data my-clips/                 requantise; needs no torch
vlf-edge build vlf.plan --target rtx                                             add an engine to a plan
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
    add("--precision", choices=("fp32", "fp16", "int8"), help="arithmetic of the engines (default: BASE's, else fp16)")
    add("--model", choices=("vlf", "vlf-lite", "vlf-tiny"), help="sizes for --random-weights (default: vlf-tiny)")
    add("--weights", metavar="FILE", help="trained weights, .safetensors or .pt (weights only, never unpickled)")
    add("--random-weights", action="store_true", default=None, help="untrained weights: runs, but labels mean nothing")
    add("--labels", metavar="FILE", help="class names for --random-weights, one a line")
    add("--seed", type=int, metavar="N", help="seed of --random-weights (default: 0)")
    add(
        "--calib-data",
        nargs="+",
        metavar="CLIPS",
        help="videos that INT8 is calibrated and measured on: files, folders, globs, test://motion; "
        "taken as the live runtime takes them",
    )
    add("--calib-samples", type=int, metavar="N", help="windows of K frames to calibrate on (default: 64)")
    add(
        "--calib-method",
        choices=("minmax", "entropy", "percentile"),
        help="how ranges are chosen (default: percentile)",
    )
    add("--percentile", type=float, metavar="PERCENT", help="for --calib-method percentile (default: 99.99)")
    add(
        "--target",
        metavar="TARGET",
        help="engines to compile: auto (all this machine can), cpu (none: the portable graph runs), "
        "rtx (Ampere to Blackwell), rtx-turing, tensorrt (this machine's GPU) (default: auto)",
    )
    add("--max-batch", type=int, metavar="N", help="largest batch of the engines (default: 8)")
    add("--workspace-mib", type=int, metavar="MIB", help="memory TensorRT's builder may use (default: its own)")
    add(
        "--span", type=float, metavar="S", dest="span_s", help="seconds one window covers (default: as trained, else 2)"
    )
    add(
        "--recipe",
        nargs="+",
        default=[],
        metavar="FILE",
        help="TOML files with any of these settings, such as those in engines/ and calibration/; later files win, "
        "and the command line wins over all",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write (default: vlf.plan; BASE itself when only adding engines)",
    )
    add("--json", action="store_true", help="print the manifest and the report as JSON")


def main(args: argparse.Namespace) -> int:
    """Builds; prints a summary of the new plan."""
    from ..compiler import build, load_recipe
    from .inspect import describe, to_json

    names = ("precision", "model", "weights", "random_weights", "seed", "calib_samples", "calib_method", "percentile")
    names += ("target", "max_batch", "workspace_mib", "span_s")
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
    output = args.output or (args.base if args.base and not recipe.converts else "vlf.plan")
    plan = build(recipe, output, base=args.base, progress=Progress())
    if args.json:
        json.dump(to_json(plan), sys.stdout, indent=1)
        print()
    else:
        print(describe(plan))
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
