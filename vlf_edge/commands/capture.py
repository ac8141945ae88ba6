"""Record clips from a camera (or any source) to calibrate on.

  vlf-edge capture 0 -o calibration/clips --clips 20 --seconds 4
  vlf-edge build base.plan --precision int8 --calib-data calibration/clips

Record what the camera will see at work: its place, its light, and some of each action.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError, VlfError
from ..options import add_options, given_options
from ..printable import printable
from ..video.sources import KINDS, SOURCE_FLAGS, SourceOptions

if TYPE_CHECKING:
    from ..types import Frame
    from ..video.sources import Source

HELP = "record clips for calibration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help=KINDS.replace("%", "%%"))
    add(
        "-o",
        "--output",
        default="calibration/clips",
        metavar="DIR",
        help="folder to write to (default: calibration/clips)",
    )
    add("--clips", type=int, default=10, metavar="N", help="how many clips (default: 10)")
    add("--seconds", type=float, default=4.0, metavar="S", help="length of each (default: 4)")
    add_options(parser.add_argument_group("sources"), SourceOptions, *SOURCE_FLAGS)


def main(args: argparse.Namespace) -> int:
    """Records; prints the file names."""
    from ..video import open_source

    if args.clips < 1 or not 0 < args.seconds <= 60:
        raise VlfError(f"--clips is {args.clips} and --seconds {args.seconds:g}; expected 1 or more, and up to 60")
    folder = Path(args.output)
    with open_source(args.source, SourceOptions(**given_options(args, SourceOptions))) as source:
        taken = _first_number(folder)
        for number in range(taken, taken + args.clips):
            frames = _take(source, args.seconds)
            if len(frames) < 2:
                break
            path = _write(frames, folder / f"clip_{number:04d}.avi")
            print(printable(path), flush=True)
        else:
            return 0
    if number == taken:
        raise SourceError(f"{source.name} ended before a clip of {args.seconds:g} s was full")
    print(f"{printable(source.name)} ended after {number - taken} of {args.clips} clips", file=sys.stderr)
    return 0


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
