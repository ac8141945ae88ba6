"""Run a plan on cameras, files, folders or the test pattern, and print its decisions.

Files are run as fast as the machine can, every frame of them; cameras live, the newest frame first.
Stop a camera with Ctrl-C: the video of --save is finished, and a summary follows on stderr.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .. import signals
from ..errors import VlfError
from ..printable import printable
from .backend import add_backend_arguments, backend_options
from .page_options import add_page_arguments, open_page

if TYPE_CHECKING:
    from ..runtime import Sink
    from ..video.sources import Source

HELP = "live decisions from cameras, files or the test pattern"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="0, /dev/video0, a video file, a folder, a glob, frames_%%04d.jpg, test://motion; several run together",
    )
    add("--json", action="store_true", help="one JSON object a decision instead of text")
    add(
        "--save",
        metavar="FILE",
        help="also write the video with the decisions on it (.mp4 or .avi); of several sources, FILE-SOURCE each",
    )
    add_backend_arguments(parser)
    add_page_arguments(parser)
    add(
        "--phases",
        type=int,
        metavar="P",
        help="interleaved sampling grids: P times more decisions (default: the plan's)",
    )
    add("--fps", type=float, metavar="HZ", help="of image files (default: 30)")
    add("--topk", type=int, default=5, metavar="N", help="classes listed with --json (default: 5)")
    add(
        "--max-batch-delay-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="how long a frame may wait for frames of other sources, to be run in one batch (default: 0)",
    )
    add("--duration", type=float, metavar="S", help="stop after this many seconds of wall time")


def main(args: argparse.Namespace) -> int:
    """Runs until every source ends, the time is up or Ctrl-C."""
    from ..runtime import Runtime
    from ..runtime.recognizer import MAIN
    from ..runtime.runtime import name_sources
    from ..video import open_source

    if args.duration is not None and not 0 < args.duration < threading.TIMEOUT_MAX:
        raise VlfError(f"--duration is {args.duration:g}; expected seconds above 0")
    with (
        signals.telling(),
        Runtime(  # a video has an end to be written
            args.plan, **backend_options(args), phases=args.phases, topk=args.topk
        ) as runtime,
        ExitStack() as stack,
    ):
        named = name_sources(args.source)
        opened = {name: stack.enter_context(open_source(source, fps=args.fps)) for name, source in named.items()}
        source = opened if len(opened) > 1 else next(iter(opened.values()))
        delay_ms = args.max_batch_delay_ms
        live = {name if len(opened) > 1 else MAIN: one.live for name, one in opened.items()}
        sinks = _sinks(args, opened)
        sinks += open_page(args, runtime, live, sinks)
        runtime.run(source, sinks, duration_s=args.duration, max_batch_delay_ms=delay_ms)
        print(printable(runtime.summary(), keep="\n"), file=sys.stderr)
    return 0


def _sinks(args: argparse.Namespace, sources: dict[str, Source]) -> list[Sink]:
    from ..runtime import JsonLinesSink, PrintSink, ThreadedSink, VideoSink

    sinks: list[Sink] = [JsonLinesSink(sys.stdout) if args.json else PrintSink(sys.stdout)]
    if args.save:
        for name, source in sources.items():
            alone = len(sources) == 1
            path = args.save if alone else video_of(args.save, name)
            sink = VideoSink(path, source, stream=None if alone else name)
            sinks.append(ThreadedSink(sink, drop_oldest=source.live))
    return sinks


def video_of(path: str, stream: str) -> Path:
    """Where the video of one of several streams goes: out.mp4 -> out-door.mp4."""
    whole = Path(path)
    return whole.with_name(f"{whole.stem}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stream)}{whole.suffix}")
