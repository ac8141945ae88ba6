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
from ..options import add_options, given_options
from .progress import Progress

HELP = "make a vlf.plan from weights or from an earlier plan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every default is None here: what a recipe says holds unless the command line says otherwise."""
    from ..compiler.recipe import Recipe

    def add_fields(*names: str) -> None:
        add_options(parser, Recipe, *names, defaults=False)

    add = parser.add_argument
    add("base", nargs="?", metavar="BASE.plan", help="start from this plan's fp32 graphs instead of weights")
    add_fields("precision", "model", "weights", "random_weights")
    add("--labels", metavar="FILE", help="class names, one a line, for --model")
    add_fields(
        "frames",
        "size_px",
        "seed",
        "calib_data",
        "calib_samples",
        "calib_method",
        "percentile",
        "max_drop",
        "target",
        "frontend",
    )
    add_fields("max_batch", "opt_batch", "workspace_mib", "span_s", "no_golden_windows")
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
    from ..compiler import Recipe, build, load_recipe
    from ..compiler.accuracy.timing import plan_times
    from .inspect import describe, to_json

    changes = given_options(args, Recipe)
    for name in (*(args.calib_data or ()), *args.recipe):
        if name.endswith(".plan"):
            raise VlfError(
                f"--calib-data or --recipe took {name} for one of its files; name the base plan first: "
                f"vlf-edge build {name} ..."
            )
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
