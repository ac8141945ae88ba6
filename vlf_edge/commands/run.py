"""Run a plan on a camera, a file, a folder or the test pattern, and print its decisions.

Files are run as fast as the machine can, every frame of them; cameras live, the newest frame first.
Stop a camera with Ctrl-C; a summary follows on stderr.
"""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..errors import VlfError
from ..printable import printable
from .backend import add_backend_arguments, backend_options

if TYPE_CHECKING:
    from ..runtime import Runtime
    from ..runtime.sinks import Sink
    from ..video.sources import Source

HELP = "live decisions from a camera, a file or the test pattern"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add(
        "source",
        metavar="SOURCE",
        help="0, /dev/video0, a video file, a folder, a glob, frames_%%04d.jpg, test://motion",
    )
    add("--json", action="store_true", help="one JSON object a decision instead of text")
    add("--save", metavar="FILE", help="also write the video with the decisions on it (.mp4 or .avi)")
    add_backend_arguments(parser)
    add(
        "--phases",
        type=int,
        metavar="P",
        help="interleaved sampling grids: P times more decisions (default: the plan's)",
    )
    add("--fps", type=float, metavar="HZ", help="of image files (default: 30)")
    add("--topk", type=int, default=5, metavar="N", help="classes listed with --json (default: 5)")
    add("--duration", type=float, metavar="S", help="stop after this many seconds of wall time")


def main(args: argparse.Namespace) -> int:
    """Runs until the source ends, the time is up or Ctrl-C."""
    from ..runtime import Runtime, open_source

    if args.duration is not None and not 0 < args.duration < threading.TIMEOUT_MAX:
        raise VlfError(f"--duration is {args.duration:g}; expected seconds above 0")
    with Runtime(args.plan, **backend_options(args), phases=args.phases, topk=args.topk) as runtime:
        source = open_source(args.source, fps=args.fps)
        play(runtime, source, _sinks(args, source), args.duration)
        print(printable(runtime.summary(), keep="\n"), file=sys.stderr)
    return 0


def play(runtime: Runtime, source: Source, sinks: list[Sink], duration_s: float | None = None) -> None:
    """Sends every step of the source through the sinks, until it ends, the time is up or Ctrl-C ends a camera."""
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        steps = stack.enter_context(runtime.pipeline(source, every_frame=any(sink.every_frame for sink in sinks)))
        if duration_s is not None:
            timer = threading.Timer(duration_s, steps.close)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        try:
            for frame, prediction in steps:
                for sink in sinks:
                    sink.write(frame, prediction)
        except KeyboardInterrupt:
            if not source.live:
                raise


def _sinks(args: argparse.Namespace, source: Source) -> list[Sink]:
    from ..runtime.sinks import JsonLinesSink, PrintSink, VideoSink

    sinks: list[Sink] = [JsonLinesSink(sys.stdout) if args.json else PrintSink(sys.stdout)]
    if args.save:
        sinks.append(VideoSink(args.save, source))
    return sinks
