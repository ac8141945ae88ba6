"""A web server on a thread of its own, with its own event loop. The one file that imports uvicorn."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import BackendMissing, VlfError, first_line
from .access import Access
from .board import Board
from .lesson import LessonBoard

log = logging.getLogger(__name__)
_CONNECTIONS = 100
_STALLED_S = 20  # after which the system gives up on a viewer that takes nothing
_LOOK_S = 1.0
_JOIN_S = 1.0


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "[HOST:]PORT"; the host is this machine alone unless given. Raises VlfError."""
    match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):)?(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise VlfError(f"cannot serve at {text!r}; expected [HOST:]PORT, such as 8080, 0.0.0.0:8080 or [::]:8080")
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host. Raises VlfError for a name that is none."""
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in _resolve(host, 0))


def _resolve(host: str, port: int) -> list[Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no host name"
        raise VlfError(f"cannot serve at {host}: {why}; expected a name or address of this machine") from None
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


class PageServer:
    """Serves a board until it is closed.

    host, port: where; port 0 takes a free one. token: who shows it may look; None lets everybody who reaches the port.
    figures: ``Runtime.stats``, asked once a second. lesson: what is taught there, if anything. Raises
    BackendMissing, VlfError.
    """

    def __init__(
        self,
        board: Board,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str | None = None,
        figures: Callable[[], Mapping[str, Any]] | None = None,
        lesson: LessonBoard | None = None,
    ):
        uvicorn, create_app = _load()
        self._board, self._figures = board, figures
        self._closing = threading.Event()
        self._socket = _listen(host, port)
        self.host, self.port = host, self._socket.getsockname()[1]
        access = Access(token, self.port, names=[host])
        config = uvicorn.Config(
            create_app(board, access, self._closing.is_set, lesson),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._threads = [
            threading.Thread(target=run, name=f"vlf-{name}", daemon=True)
            for name, run in (("page", self._serve), ("page-figures", self._look_round))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        """Where a browser on this machine, or on another one if it may, finds the page."""
        everywhere = self.host in ("0.0.0.0", "::")
        name = socket.gethostname() if everywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/"

    def close(self) -> None:
        """Ends the answers that are on their way, and the threads. Idempotent; returns within about a second, whatever
        the viewers do."""
        self._closing.set()
        with _no_complaints():  # of uvicorn, about viewers that were cut off
            self._server.should_exit = True
            self._threads[0].join(_JOIN_S / 2)
            self._server.force_exit = True
            for thread in self._threads:
                thread.join(_JOIN_S / 2)

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:  # the run goes on without its page
            log.error("the page has ended, the run goes on: %s", first_line(error))
        finally:
            self._socket.close()

    def _look_round(self) -> None:
        """What changes without the run's telling."""
        while not self._closing.is_set():
            try:
                self._board.find_clips()
                if self._figures is not None:
                    self._board.take_figures(self._figures())
            except Exception as error:  # of a run that is just being closed, or one of its bugs: a page is no reason
                log.debug("the page shows old figures: %s", first_line(error))
            self._closing.wait(_LOOK_S)


@contextmanager
def _no_complaints() -> Iterator[None]:
    complaints = logging.getLogger("uvicorn.error")

    def none(record: logging.LogRecord) -> bool:
        return False

    complaints.addFilter(none)
    try:
        yield
    finally:
        complaints.removeFilter(none)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises VlfError for what is taken or forbidden."""
    family, kind, protocol, address = _resolve(host, port)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_S * 1000)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise VlfError(
            f"cannot serve at {host}, port {port}: {error.strerror}", remedy="name another port: --serve [HOST:]PORT"
        ) from None
    return listener


def _load() -> tuple[Any, Any]:
    try:
        import uvicorn

        from .app import create_app
    except ImportError as error:
        raise BackendMissing(f"the page needs {error.name}", remedy="pip install 'vlf_edge[serve]'") from None
    return uvicorn, create_app
