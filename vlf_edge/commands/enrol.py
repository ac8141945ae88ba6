"""Teach a plan your own actions from a few clips of each, in seconds: no PyTorch, no training, no engine rebuilt.

vlf-edge build --weights vlf-tiny-acts --precision int8 -o people.plan    the weights that ship for what people do
vlf-edge enrol people.plan wave=clips/wave/ stop=clips/stop/ --none clips/nothing/ -o mine.plan
vlf-edge enrol mine.plan point=clips/point/ -o mine.plan          one more; what it was taught before stays

Five clips of each label are good, and as many as can be had of all else that the camera will see (--none): what is none
of the labels is then called "unknown". vlf-edge capture records clips.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import VlfError
from ..printable import printable
from .backend import add_backend_arguments, backend_options
from .progress import Progress

HELP = "teach a plan your own actions from a few clips of each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add("actions", nargs="+", metavar="LABEL=CLIPS", help="a label, and a folder, file or glob of clips that show it")
    add("--none", nargs="+", metavar="CLIPS", help="clips in which nothing of this happens: what is called unknown")
    add(
        "--keep",
        metavar="DATA",
        help="keep the classes that the model was trained for beside the new ones; DATA are clips of them: motion "
        "(rendered), a folder of class/clip.mp4, or an annotation file",
    )
    add_lesson_arguments(parser)
    add("-o", "--output", required=True, metavar="FILE", help="where to write the new plan; PLAN itself is fine too")
    add_backend_arguments(parser)
    add("--json", action="store_true", help="print what was learned as JSON")


def add_lesson_arguments(parser: argparse.ArgumentParser) -> None:
    """How labels are taught, whoever shows them."""
    parser.add_argument(
        "--false-accepts",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the windows of other things, how many may be taken for one of the labels (default: 0.01)",
    )
    parser.add_argument(
        "--no-mirror", action="store_true", help="do not teach mirror images too: labels speak of left or right"
    )


def lesson_options(args: argparse.Namespace) -> dict[str, Any]:
    """What ``add_lesson_arguments`` added, as ``enrol`` and ``Teaching`` take it."""
    return {"false_accepts": args.false_accepts, "mirror": not args.no_mirror}


def main(args: argparse.Namespace) -> int:
    """Enrols; prints how well clips that were left out are known."""
    from ..enrolment import enrol

    plan = enrol(
        args.plan,
        read_actions(args.actions),
        args.output,
        none=args.none,
        keep=args.keep,
        **lesson_options(args),
        progress=Progress(),
        **backend_options(args),
    )
    head = plan.manifest.head
    record = head.record if head else {}
    if args.json:
        json.dump({"plan": str(plan.path), "labels": list(plan.manifest.labels), **record}, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(map(printable, [f"{plan.path}: {', '.join(plan.manifest.labels)}", *head_rows(record)])))
    return 0


def read_actions(words: list[str]) -> dict[str, list[str]]:
    """LABEL=CLIPS words as {label: clips}. Raises VlfError for what is none, and for a label that comes twice."""
    actions: dict[str, list[str]] = {}
    for word in words:
        label, equals, clips = word.partition("=")
        if not (label and equals and clips):
            raise VlfError(f"cannot read {word!r}; expected LABEL=CLIPS, such as wave=clips/wave/")
        if label in actions:
            raise VlfError(f"the label {label!r} comes twice; name all its clips at once: a folder or a glob of them")
        actions[label] = [clips]
    return actions


def head_rows(record: Mapping[str, Any]) -> list[str]:
    """What the record of a head says, in lines. Raises LookupError or TypeError for one that is not sound."""
    rows = []
    labels = record.get("labels", {})
    width = max(map(len, labels), default=0)
    for label, found in labels.items():
        right = found["left_out_right"]
        known = "nothing to judge by" if right is None else f"{right:.0%} right when each is left out in turn"
        rows.append(f"{label:{width}s}  {found['clips']} clip(s), {known}")
    if labels and record.get("unknown_from") == "none clips":
        rows.append(
            f"unknown from {record['unknown_clips']} clip(s) of other things"
            + (f": takes {1 - record['false_accepts']:.1%} of their windows" if "false_accepts" in record else "")
        )
    elif labels:
        rows.append("unknown from still frames alone: give --none clips of other things to have them told apart")
    if record.get("misses") is not None:
        rows.append(f"unknown takes {record['misses']:.1%} of the labels' own windows, left out in turn")
    if record.get("kept"):
        kept = record["kept"]
        rows.append(
            f"kept classes: {kept['right']:.1%} of their windows right, {kept['right_before']:.1%} without labels"
        )
    if "least_probability" in record:
        rows.append(
            f"unknown is what no class has a probability above {record['least_probability']:.3f} for, which "
            f"{record['false_accepts']:.1%} of {record['none_windows']} windows of nothing have"
        )
    return rows
