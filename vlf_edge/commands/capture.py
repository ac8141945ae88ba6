"""Record clips from a camera (or any source): to calibrate on, or of an action to teach.

  vlf-edge capture 0 -o calibration/clips --clips 20 --seconds 4
  vlf-edge build base.plan --precision int8 --calib-data calibration/clips

  vlf-edge capture 0 -o clips/ --label wave --count 10 --countdown 3
  vlf-edge enrol vlf.plan wave=clips/wave --none clips/nothing -o mine.plan

Record what the camera will see at work: its place, its light, and some of each action. With --label each clip comes
after a countdown, in a folder of that name, and is told with how much moved in it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError, VlfError
from ..options import add_options, given_options
from ..printable import printable
from ..video.sources import KINDS, SOURCE_FLAGS, SourceOptions

if TYPE_CHECKING:
    from ..types import Frame
    from ..video.sources import Source

_CALIBRATION, _ACTIONS = "calibration/clips", "clips"
HELP = "record clips to calibrate on, or of an action to teach"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help=KINDS.replace("%", "%%"))
    add(
        "-o",
        "--output",
        metavar="DIR",
        help="folder to write to (default: calibration/clips, with --label clips)",
    )
    add("--clips", "--count", type=int, default=10, metavar="N", help="how many clips (default: 10)")
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="length of each (default: 4; with --label one and a half windows of the plan: 3 for what ships)",
    )
    guided = parser.add_argument_group("clips of an action")
    guided.add_argument("--label", help='what the clips show ("nothing": none of it); they go into DIR/LABEL')
    guided.add_argument("--countdown", type=float, default=3.0, metavar="S", help="before each clip (default: 3)")
    guided.add_argument("--plan", metavar="PLAN", help="what they are for (default: the plan that ships)")
    guided.add_argument("--show", action="store_true", help="show the camera and the countdown in a window; Q ends it")
    add_options(parser.add_argument_group("sources"), SourceOptions, *SOURCE_FLAGS)


def main(args: argparse.Namespace) -> int:
    """Records; prints the file names."""
    from ..video import open_source

    long_enough = args.seconds is None or 0 < args.seconds <= 60
    if args.clips < 1 or not long_enough or not 0 <= args.countdown <= 60:
        raise VlfError(
            f"--clips is {args.clips}, --seconds {args.seconds or 0:g} and --countdown {args.countdown:g}; expected 1 "
            "or more, above 0 and up to 60, and from 0 to 60"
        )
    if args.label is None and (args.show or args.plan):
        raise VlfError("--show and --plan are for clips of an action: give its --label too")
    folder = Path(args.output or (_CALIBRATION if args.label is None else _ACTIONS))
    with ExitStack() as stack:
        recorded = _guided(args, folder, stack) if args.label is not None else None
        source = stack.enter_context(open_source(args.source, SourceOptions(**given_options(args, SourceOptions))))
        done = recorded(source) if recorded else _record(source, folder, args.clips, args.seconds or 4.0)
        if done < args.clips:
            print(f"{printable(source.name)} ended after {done} of {args.clips} clips", file=sys.stderr)
    return 0


def _guided(args: argparse.Namespace, folder: Path, stack: ExitStack) -> Callable[[Source], int]:
    """Records clips of an action; what it needs is opened first, so that mistakes show before the camera runs."""
    from ..compiler.fp32_model import SHIPPED_PLAN
    from ..plan import Plan
    from .guided import check_label, record
    from .lesson_window import LessonWindow

    check_label(args.label)
    plan = Plan.open(args.plan or SHIPPED_PLAN)
    window = stack.enter_context(LessonWindow("leave --show out")) if args.show else None
    return partial(
        record,
        folder=folder,
        label=args.label,
        plan=plan,
        count=args.clips,
        seconds=args.seconds,
        countdown_s=args.countdown,
        window=window,
    )


def _record(source: Source, folder: Path, count: int, seconds: float) -> int:
    """Records clip after clip; prints the file names. Returns how many it was until the source ended."""
    taken = _first_number(folder)
    for number in range(taken, taken + count):
        frames = _take(source, seconds)
        if len(frames) < 2:
            if number == taken:
                raise SourceError(f"{source.name} ended before a clip of {seconds:g} s was full")
            return number - taken
        path = _write(frames, folder / f"clip_{number:04d}.avi")
        print(printable(path), flush=True)
    return count


def _first_number(folder: Path) -> int:
    """Of the clips to come: after those that are there. Makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlfError(f"cannot write clips to {folder}: {error.strerror}") from None
    numbers = (re.fullmatch(r"clip_(\d+)\.avi", path.name) for path in folder.iterdir())
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def _take(source: Source, seconds: float) -> list[Frame]:
    frames: list[Frame] = []
    while (frame := source.read()) is not None:
        if frames and frame.t_s < frames[-1].t_s:
            frames = []  # the next file of a folder began: clips do not straddle files
        frames.append(frame)
        if frame.t_s - frames[0].t_s >= seconds:
            return frames
    return []


def _write(frames: list[Frame], path: Path) -> Path:
    """Motion JPEG, at the rate the frames really came: cameras seldom keep the one they announce."""
    from ..runtime.sinks import VideoWriter

    fps = (len(frames) - 1) / (frames[-1].t_s - frames[0].t_s)
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame.image)
    return path
