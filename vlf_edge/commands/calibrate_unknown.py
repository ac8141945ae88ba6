"""Teach a trained plan to say "unknown" of what it is not sure of, from clips of nothing that it knows.

vlf-edge calibrate-unknown vlf.plan clips/nothing/ -o careful.plan
"""

from __future__ import annotations

import argparse
import json
import sys

from ..printable import printable
from .backend import add_backend_arguments, backend_options
from .enrol import head_rows
from .progress import Progress

HELP = 'teach a trained plan to say "unknown"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add("none", nargs="+", metavar="NONE_CLIPS", help="clips in which nothing happens that the plan knows")
    add(
        "--false-accepts",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of their windows, how many may be taken for something it knows (default: 0.01)",
    )
    add("-o", "--output", metavar="FILE", help="where to write (default: PLAN itself)")
    add_backend_arguments(parser)
    add("--json", action="store_true", help="print what was found as JSON")


def main(args: argparse.Namespace) -> int:
    """Calibrates; prints how sure the plan must be from now on."""
    from ..enrolment import calibrate_unknown

    plan = calibrate_unknown(
        args.plan,
        args.none,
        args.output or args.plan,
        false_accepts=args.false_accepts,
        progress=Progress(),
        **backend_options(args),
    )
    head = plan.manifest.head
    record = head.record if head else {}
    if args.json:
        json.dump({"plan": str(plan.path), **record}, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(map(printable, [f"{plan.path}:", *head_rows(record)])))
    return 0
