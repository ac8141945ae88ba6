"""The page as a sink of a run: what it writes is stored, and shown by a server on threads of its own."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from ..errors import VlfError
from ..runtime import Runtime
from ..runtime.sinks import Sink
from ..types import Event, Frame, Prediction
from .access import make_token, read_token
from .board import Board
from .plan_facts import plan_facts
from .server import PageServer, is_loopback, parse_address

log = logging.getLogger(__name__)


class PageSink(Sink):
    """Serves the page of a run at ``address``, "[HOST:]PORT".

    runtime: whose plan and figures are shown. streams: {name: whether it is live}; others are taken for live when they
    come. token_file: holds the token that viewers need; without one, none is needed on this machine alone, and one is
    made for all others. events: whether the run makes any. clip_of: gives the video of an event by its stream and
    number, or None. terminal: where the token that was made is shown, once; never anywhere that is kept.

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
        host, port = parse_address(address)
        terminal = terminal or sys.stderr
        token = read_token(token_file) if token_file is not None else None
        made = token is None and not is_loopback(host)
        if made and not terminal.isatty():
            raise VlfError(
                f"the page at {address} can be reached by others and needs a token, but there is no terminal to show "
                "a new one on",
                remedy="give --serve-token-file FILE, or serve this machine alone: --serve 127.0.0.1:PORT",
            )
        if token_file is not None and os.stat(token_file).st_mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning("%s can be read by others: chmod 600 it", token_file)
        if made:
            token = make_token()
        self.board = Board(streams, plan_facts(runtime), events=events, clip_of=clip_of)
        self.server = PageServer(self.board, host, port, token=token, figures=runtime.stats)
        # A browser keeps what follows the # to itself: the token reaches no log of any server.
        shown = f"{self.server.url}#token={token}" if made else self.server.url
        print(f"page: {shown}", file=terminal, flush=True)

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        self.board.write(frame, prediction)

    def write_event(self, event: Event) -> None:
        self.board.write_event(event)

    def close(self) -> None:
        self.server.close()
