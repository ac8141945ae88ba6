"""Look at this machine, and at a plan on it: what is, what should be, and the exact fix.

vlf-edge doctor                             the machine
vlf-edge doctor vlf.plan                    and whether this plan runs here, on what, how fast, and answers rightly
vlf-edge doctor vlf.plan --bundle bug.zip   all of it in a file for a bug report, without secrets and weights

Nothing is changed and nothing leaves the machine. Exit code 1 if the plan cannot run here or answers wrongly, else 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import VlfError

HELP = "what this machine has and lacks, and whether a plan runs on it rightly"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", nargs="?", metavar="PLAN", help="a vlf.plan to try here")
    add("--json", action="store_true", help="print the findings as JSON")
    add("--bundle", metavar="FILE.zip", help="also write report, packages, log, and the plan's manifest and report")
    add("--with-weights", action="store_true", help="put the plan itself into the bundle too")


def main(args: argparse.Namespace) -> int:
    """Looks; prints what was found."""
    from ..doctor import Machine, examine, plan_fails, to_json, to_text, write_bundle
    from ..doctor.bundle import Recorder

    plan = Path(args.plan) if args.plan else None
    if args.with_weights and not (args.bundle and plan):
        raise VlfError("--with-weights puts a plan into a bundle: give PLAN and --bundle FILE.zip with it")
    recorder = Recorder(Machine(plan=plan))
    sections = examine(recorder.machine)
    if args.json:
        json.dump(to_json(sections), sys.stdout, indent=1)
        print()
    else:
        print(to_text(sections))
    if args.bundle:
        names = write_bundle(Path(args.bundle), sections, recorder.lines, plan, args.with_weights)
        print(f"{args.bundle}: {', '.join(names)}; look through it before you send it", file=sys.stderr)
    return 1 if plan_fails(sections) else 0
