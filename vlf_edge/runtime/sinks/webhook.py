"""Events to a web address, one after the other, until it has taken them."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..._version import __version__
from ...backoff import Backoff
from ...credentials import read_secret, read_secret_file
from ...errors import VlfError, one_line
from ...options import option
from ...types import Event, Frame, Prediction
from .disk_queue import DiskQueue
from .health import Health
from .sink import Run, Sink
from .text import event_to_json

log = logging.getLogger(__name__)
TIMEOUT_S = 10.0
_LAST_S = 1.0
_BACKOFF = Backoff(first_s=1.0, cap_s=60.0)
_CAPACITY = 10_000
_LONGEST_WAIT_S = 3600.0
# Answers to the message itself: it would be refused the next time too.
_REFUSALS = (400, 413, 415, 422)


class Answer(Exception):
    """An answer other than 2xx. wait_s: what its Retry-After asks for."""

    def __init__(self, status: int, reason: str, wait_s: float = 0.0):
        super().__init__(f"it answers {status} {reason}".rstrip())
        self.status, self.wait_s = status, wait_s


class WebhookSink(Sink):
    """POSTs each event as JSON, {"delivery": ID, "event": ``event_to_json``}, from a queue on disk and on a thread of
    its own. The ID is the same each time an event is sent, so that who gets it twice can tell.

    In order, and each at least once: it is taken out of the queue after an answer of 2xx. Otherwise it is sent again
    after ``backoff``, or later if the answer's Retry-After says so, for ever; 400, 413, 415 and 422 refuse the message
    itself, which then counts as failed. What is left at the end is sent by the next run with the same queue.

    url: http:// or https://; only its host is ever printed. queue: file (default: see ``default_queue``). capacity:
    most events in it; of more the oldest are dropped and counted. secret: signs the body, see ``signature``. timeout_s:
    for one attempt as a whole. Raises VlfError.
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str | Path | None = None,
        capacity: int = _CAPACITY,
        secret: str | None = None,
        timeout_s: float = TIMEOUT_S,
        backoff: Backoff = _BACKOFF,
        pause: Callable[[float], bool] | None = None,
    ):
        self._post = _Post(url, secret, timeout_s)
        self.health = Health(self.name, "events")
        self._backoff = backoff
        self._queue = DiskQueue(Path(queue) if queue else default_queue(url), capacity)
        self._lock = threading.Lock()
        self._new, self._closing = threading.Event(), threading.Event()
        self._pause = pause or self._closing.wait
        self._new.set()  # for what the last run has left
        self._closed = False
        self._thread = threading.Thread(target=self._send_all, name="vlf-webhook", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return f"webhook {self._post.place}"

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        """Decisions are not sent."""

    def write_event(self, event: Event) -> None:
        """Puts it into the queue; it is on the disk when this returns. Raises OSError."""
        message = {"delivery": uuid.uuid4().hex, "event": event_to_json(event)}
        if lost := self._queue.put(json.dumps(message)):
            self.health.drops(lost)
        self._new.set()

    def stats(self) -> dict[str, Any]:
        """``Health.stats``, with "queued": events that wait on the disk."""
        return self.health.stats() | {"queued": len(self._queue)}

    def close(self) -> None:
        """Gives what waits a second to be sent; the rest stays in the queue."""
        if self._closed:
            return
        self._closed = True
        deadline_s = time.monotonic() + _LAST_S
        while self.health.ok and len(self._queue) and self._thread.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        self._closing.set()
        self._new.set()
        self._thread.join(_LAST_S / 2)
        if left := len(self._queue):
            log.warning("%s: %d events wait in %s, for the next run", self.name, left, self._queue.path)
        self._queue.close()

    def _send_all(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                found = self._queue.oldest()
                if found is None:
                    self._new.wait()
                    self._new.clear()
                    continue
                self._send(*found)
                failures = 0
            except Exception as error:
                if self._closing.is_set():
                    return
                failures += 1
                self.health.fails(self._post.without_secrets(error))
                wait_s = min(getattr(error, "wait_s", 0.0), _LONGEST_WAIT_S)
                self._pause(max(wait_s, self._backoff.delay_s(failures)))

    def _send(self, number: int, text: str) -> None:
        try:
            self._post(text.encode())
        except Answer as answer:
            if answer.status not in _REFUSALS:
                raise
            self.health.fails(self._post.without_secrets(answer))
            self.health.gives_up()
            self._queue.remove(number)
        else:
            self._queue.remove(number)
            self.health.wrote()


class _Post:
    """One POST to one address. place: the address without what may be secret in it."""

    def __init__(self, url: str, secret: str | None, timeout_s: float):
        form = "expected http://HOST[:PORT]/PATH or https://..."
        try:
            found = urlsplit(url)
            self._host, self._port = found.hostname, found.port
        except ValueError:
            raise VlfError(f"the address of the webhook is no URL; {form}") from None
        if found.scheme not in ("http", "https") or not self._host:
            raise VlfError(f"the address of the webhook is no web address; {form}")
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise VlfError(f"the address of the webhook holds a character that is to be written as %XX; {form}")
        self._https, self._timeout_s = found.scheme == "https", timeout_s
        self._target = (found.path or "/") + (f"?{found.query}" if found.query else "")
        self.place = f"{found.scheme}://{self._host}" + (f":{self._port}" if self._port else "")
        secrets = (found.password, found.query, found.path.strip("/"), secret)
        self._secrets = [part for part in secrets if part and len(part) > 3]
        self._headers = {"Content-Type": "application/json", "User-Agent": f"vlf_edge/{__version__}"}
        if found.username is not None:
            from base64 import b64encode
            from urllib.parse import unquote

            pair = f"{unquote(found.username)}:{unquote(found.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        self._secret = secret

    def __call__(self, body: bytes) -> None:
        """Sends one message. Raises Answer, OSError, or an error of http.client."""
        from http.client import HTTPConnection, HTTPSConnection

        headers = dict(self._headers)
        if self._secret is not None:
            headers["X-Vlf-Edge-Signature"] = signature(self._secret, body)
        kind = HTTPSConnection if self._https else HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        # The library's limit is one for each read: a server that sends a byte now and then would hold us for ever.
        cut = threading.Timer(self._timeout_s, _cut_off, (connection,))
        cut.daemon = True
        cut.start()
        try:
            connection.request("POST", self._target, body, headers)
            answer = connection.getresponse()
            if not 200 <= answer.status < 300:
                raise Answer(answer.status, answer.reason, _retry_after_s(answer.getheader("Retry-After")))
        finally:
            cut.cancel()
            connection.close()

    def without_secrets(self, error: BaseException) -> str:
        """The error in one line: libraries and servers repeat what they were given."""
        text = one_line(error) or type(error).__name__
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def signature(secret: str, body: bytes) -> str:
    """What X-Vlf-Edge-Signature says of a body: "sha256=" and its HMAC-SHA256 in hexadecimal digits."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def default_queue(url: str) -> Path:
    """$XDG_STATE_HOME/vlf_edge/webhook-HASH.sqlite, by default under ~/.local/state. Raises VlfError without a home."""
    chosen = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".local" / "state"
    except RuntimeError:
        raise VlfError("there is no home folder for the webhook's queue; name a file with --webhook-queue") from None
    return state / "vlf_edge" / f"webhook-{hashlib.sha256(url.encode()).hexdigest()[:16]}.sqlite"


def _cut_off(connection: Any) -> None:
    import socket
    from contextlib import suppress

    if (sock := connection.sock) is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _retry_after_s(value: str | None) -> float:
    """Seconds of a Retry-After; dates, which need two clocks to agree, count as none."""
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 10 else 0.0


@dataclass(frozen=True)
class WebhookOptions:
    """What the command line says of it."""

    webhook: str | None = option(
        None, "POST each event to this address until it is taken; @FILE reads the address from a file", "URL"
    )
    webhook_secret_file: str | None = option(
        None, "sign what is sent (HMAC-SHA256) with the first line of this file", "FILE"
    )
    webhook_queue: str | None = option(
        None, "where events wait on the disk (default: under ~/.local/state/vlf_edge)", "FILE"
    )


def open_webhook(options: WebhookOptions, run: Run) -> Iterator[Sink]:
    if options.webhook is not None:
        run.need_events("--webhook")
        secret = options.webhook_secret_file and read_secret_file(options.webhook_secret_file)
        yield WebhookSink(read_secret(options.webhook), queue=options.webhook_queue, secret=secret)
