"""The options of the page, where a run or a lesson shows itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VlfError

if TYPE_CHECKING:
    from ..runtime import Runtime, Sink


def add_page_arguments(
    parser: argparse.ArgumentParser,
    what: str = "also serve a page with pictures, decisions and figures, /metrics, /healthz and /api",
) -> None:
    """what: --serve does, for its help."""
    parser.add_argument(
        "--serve",
        metavar="[HOST:]PORT",
        help=f"{what}: docs/serve.md (default host: 127.0.0.1, this machine alone)",
    )
    parser.add_argument(
        "--serve-token-file",
        metavar="FILE",
        help="holds the token that viewers of the page need; without it one is made where others reach the page",
    )


def wants_page(args: argparse.Namespace) -> bool:
    """Whether it is asked for. Raises VlfError for a token file of no page."""
    if args.serve is None and args.serve_token_file is not None:
        raise VlfError("--serve-token-file is for a page; give --serve [HOST:]PORT too")
    return args.serve is not None


def open_page(
    args: argparse.Namespace, runtime: Runtime, live: Mapping[str, bool], others: Sequence[Sink]
) -> list[Sink]:
    """The page, if it is asked for. live: {stream name: whether it is a camera}. others: the run's other sinks,
    of which one may keep clips of events."""
    if not wants_page(args):
        return []
    from ..serve import PageSink

    keepers = [sink.clip_of for sink in others if hasattr(sink, "clip_of")]

    def clip_of(stream: str, event: int) -> Path | None:
        return next((path for keeper in keepers if (path := keeper(stream, event)) is not None), None)

    events = bool(getattr(args, "events", False))
    return [PageSink(args.serve, runtime, live, token_file=args.serve_token_file, events=events, clip_of=clip_of)]
