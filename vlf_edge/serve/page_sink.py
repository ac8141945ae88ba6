"""The page as a sink of a run: what it writes is stored, and shown by a server on threads of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from ..runtime import Runtime
from ..runtime.sinks import Sink
from ..types import Event, Frame, Prediction
from .board import Board
from .opening import open_server
from .plan_facts import plan_facts


class PageSink(Sink):
    """Serves the page of a run at ``address``, "[HOST:]PORT".

    runtime: whose plan and figures are shown. streams: {name: whether it is live}; others are taken for live when they
    come. token_file, terminal: see ``open_server``. events: whether the run makes any. clip_of: gives the video of an
    event by its stream and number, or None.

    Nothing here waits for a viewer. Raises BackendMissing, and VlfError for an address that cannot be served.
    """

    every_frame = True

    def __init__(
        self,
        address: str,
        runtime: Runtime,
        streams: Mapping[str, bool] = MappingProxyType({}),
        *,
        token_file: str | Path | None = None,
        events: bool = True,
        clip_of: Callable[[str, int], Path | None] | None = None,
        terminal: TextIO | None = None,
    ):
        facts = plan_facts(runtime.plan, runtime.backend, runtime.recognizer.sampling.grid_s)
        self.board = Board(streams, facts, events=events, clip_of=clip_of)
        self.server = open_server(address, self.board, token_file=token_file, figures=runtime.stats, terminal=terminal)

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        self.board.write(frame, prediction)

    def write_event(self, event: Event) -> None:
        self.board.write_event(event)

    def close(self) -> None:
        self.server.close()
