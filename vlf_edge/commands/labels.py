"""Show the labels of a plan, rename them, or take some out. Nothing is taught anew, and no engine is rebuilt.

vlf-edge labels mine.plan
vlf-edge labels mine.plan --rename wave=hello --remove stop
"""

from __future__ import annotations

import argparse

from ..errors import VlfError
from ..printable import printable

HELP = "show, rename or remove the labels of a plan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add("--remove", action="append", default=[], metavar="LABEL", help="do not decide for it any more; may come again")
    add("--rename", action="append", default=[], metavar="OLD=NEW", help="call a label otherwise; may come again")
    add("-o", "--output", metavar="FILE", help="where to write (default: PLAN itself)")


def main(args: argparse.Namespace) -> int:
    """Prints the labels, one a line, as they are then."""
    from ..enrolment import change_labels
    from ..plan import Plan

    rename = {}
    for word in args.rename:
        old, equals, new = word.partition("=")
        if not (old and equals and new):
            raise VlfError(f"cannot read --rename {word!r}; expected OLD=NEW, such as wave=hello")
        rename[old] = new
    if args.remove or rename:
        plan = change_labels(args.plan, args.output or args.plan, remove=args.remove, rename=rename)
    else:
        plan = Plan.open(args.plan)
    print("\n".join(map(printable, plan.manifest.labels)))
    return 0
