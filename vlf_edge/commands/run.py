"""Run a plan on cameras, files, folders or the test pattern, and print its decisions.

Files are run as fast as the machine can, every frame of them; cameras live, the newest frame first. A camera that is
absent or fails has no signal until it is back; --max-retries 0 ends the run instead.
Stop a camera with Ctrl-C: the video of --save is finished, and a summary follows on stderr.
"""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING

from .. import signals
from ..errors import VlfError
from ..options import add_options, given_options
from ..printable import printable
from ..runtime.limits import Limits
from ..runtime.sinks.table import add_sink_arguments
from ..types import MAIN
from ..video.sources import KINDS, SOURCE_FLAGS, SourceOptions
from .backend import add_backend_arguments, backend_options
from .cameras import Reload, find_cameras
from .event_options import add_event_arguments, event_settings
from .page_options import add_page_arguments, open_page

if TYPE_CHECKING:
    from ..runtime import Sink
    from ..video.sources import Address, Source

HELP = "live decisions from cameras, files or the test pattern"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", nargs="?", metavar="PLAN", help="a vlf.plan")
    add(
        "source",
        nargs="*",
        metavar="SOURCE",
        help=f"{KINDS.replace('%', '%%')}; several run together",
    )
    add(
        "--config",
        metavar="FILE",
        help="TOML with any of these options and a table for each camera, which kill -HUP reads anew: docs/service.md",
    )
    add("--json", action="store_true", help="one JSON object a decision instead of text")
    add_backend_arguments(parser)
    add_page_arguments(parser)
    add(
        "--phases",
        type=int,
        metavar="P",
        help="interleaved sampling grids: P times more decisions (default: the plan's)",
    )
    add("--topk", type=int, default=5, metavar="N", help="classes listed with --json (default: 5)")
    add(
        "--max-batch-delay-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="how long a frame may wait for frames of other sources, to be run in one batch (default: 0)",
    )
    add_options(parser, Limits, *(f.name for f in fields(Limits)))
    add("--duration", type=float, metavar="S", help="stop after this many seconds of wall time")
    add_options(parser.add_argument_group("sources"), SourceOptions, *SOURCE_FLAGS)
    add_event_arguments(parser, "also tell when an action begins, and when it has ended")
    add_sink_arguments(parser)
    parser.set_defaults(cameras={})


def main(args: argparse.Namespace) -> int:
    """Runs until every source ends, the time is up or Ctrl-C."""
    from ..runtime import Runtime

    if args.plan is None or not (args.source or args.cameras):
        args.usage_error("what to run is missing: give PLAN and SOURCE, or --config FILE with a plan and cameras")
    limits = Limits(**given_options(args, Limits))
    if args.duration is not None and not 0 < args.duration < threading.TIMEOUT_MAX:
        raise VlfError(f"--duration is {args.duration:g}; expected seconds above 0")
    events = event_settings(args)
    reload = None if args.config is None else Reload(args)
    with (
        signals.telling(),
        nullcontext() if reload is None else signals.reloading(reload),
        Runtime(  # a video has an end to be written
            args.plan, **backend_options(args), phases=args.phases, topk=args.topk
        ) as runtime,
        ExitStack() as stack,
    ):
        cameras = {name: one.begun(stack) for name, one in find_cameras(args).items()}
        alone = len(cameras) == 1 and not args.cameras
        streams = {MAIN: next(iter(cameras.values()))} if alone else cameras
        sources = {name: one.source for name, one in streams.items()}
        sinks = _sinks(args, sources)
        sinks += open_page(args, runtime, {name: one.live for name, one in sources.items()}, sinks)
        if reload is not None:
            reload.runtime = runtime
        runtime.run(
            streams,
            sinks,
            duration_s=args.duration,
            max_batch_delay_ms=args.max_batch_delay_ms,
            limits=limits,
            events=events,
        )
        print(printable(runtime.summary(), keep="\n"), file=sys.stderr)
        _check_finished(sinks)
    return 0


def _sinks(args: argparse.Namespace, sources: dict[str, Source | Address]) -> list[Sink]:
    """What is printed, and what the arguments ask for besides."""
    from ..runtime.sinks import JsonLinesSink, PrintSink, Run, ThreadedSink, open_sinks

    run = Run(sources, events=getattr(args, "events", False))
    printed = JsonLinesSink(sys.stdout) if args.json else PrintSink(sys.stdout)
    if run.live:  # a pipe that nobody reads holds up files, as pipes do, but no camera
        printed = ThreadedSink(printed, raises=(BrokenPipeError,))
    return [printed, *open_sinks(args, run)]


def _check_finished(sinks: list[Sink]) -> None:
    """Raises what the end of a file that was to be written failed with."""
    for sink in sinks:
        if (error := getattr(sink, "unfinished", None)) is not None:
            raise error
