"""Where a page is served, and who may look: what ``--serve`` and ``--serve-token-file`` say."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from ..errors import VlfError
from .access import make_token, read_token
from .board import Board
from .lesson import LessonBoard
from .server import PageServer, is_loopback, parse_address

log = logging.getLogger(__name__)


def open_server(
    address: str,
    board: Board,
    *,
    token_file: str | Path | None = None,
    figures: Callable[[], Mapping[str, Any]] | None = None,
    lesson: LessonBoard | None = None,
    terminal: TextIO | None = None,
) -> PageServer:
    """Serves a board at ``address``, "[HOST:]PORT", and says where on ``terminal``: stderr.

    token_file: holds the token that viewers need; without one, none is needed on this machine alone, and one is made
    for all others, which the terminal shows once; it is never anywhere that is kept. figures, lesson: see
    ``PageServer``. Raises BackendMissing, and VlfError for an address that cannot be served.
    """
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
    server = PageServer(board, host, port, token=token, figures=figures, lesson=lesson)
    # A browser keeps what follows the # to itself: the token reaches no log of any server.
    print(f"page: {server.url}#token={token}" if made else f"page: {server.url}", file=terminal, flush=True)
    return server
