"""The sinks of ``vlf-edge run``, beside what it prints. Another one is a file beside this one and a row here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from ...options import add_options, given_options
from .clips import ClipOptions, open_clips
from .lines_to_files import FileOptions, open_files
from .mqtt import MqttOptions, open_mqtt
from .sink import Run, Sink
from .threaded import ThreadedSink
from .video import VideoOptions, open_videos
from .webhook import WebhookOptions, open_webhook
from .window import WindowOptions, open_window


@dataclass(frozen=True)
class Kind:
    """One kind. options: dataclass of what the command line may say of it; open: the sinks that it asks for.
    capacity: most steps that wait for one on its thread, or 0 for the caller's thread: a window belongs there."""

    options: type
    open: Callable[[Any, Run], Iterator[Sink]]
    capacity: int = 64


TABLE = (
    Kind(VideoOptions, open_videos),
    Kind(FileOptions, open_files, capacity=1024),
    Kind(ClipOptions, open_clips),
    Kind(MqttOptions, open_mqtt, capacity=1024),
    Kind(WebhookOptions, open_webhook, capacity=1024),
    Kind(WindowOptions, open_window, capacity=0),
)


def add_sink_arguments(parser: argparse.ArgumentParser) -> None:
    """An argument for each option of each kind."""
    group = parser.add_argument_group("where decisions and events go, beside stdout", "docs/sinks.md")
    for kind in TABLE:
        add_options(group, kind.options, *(f.name for f in fields(kind.options)))


def open_sinks(args: argparse.Namespace, run: Run) -> list[Sink]:
    """The sinks that the arguments ask for, each on a thread of its own but for a window. Raises VlfError for what
    cannot be; those already open are closed then."""
    sinks: list[Sink] = []
    try:
        for kind in TABLE:
            for sink in kind.open(kind.options(**given_options(args, kind.options)), run):
                on_thread = kind.capacity > 0
                sinks.append(ThreadedSink(sink, capacity=kind.capacity, drop_oldest=run.live) if on_thread else sink)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks
