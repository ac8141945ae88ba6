"""A lesson on the page: what goes on in it, for those who look, and what they ask for, for the one who teaches. Values
only, no web."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..strict_json import parse

_MOST_WAITING = 16
_MOST_CHARACTERS = 60  # of what is asked for at once
_MESSAGES_SHOWN = 8
_LOOKED_S = 2.0  # ago, at most: somebody looks


class Wish(NamedTuple):
    """What somebody at the page asks for. kind: "keys", as they are pressed on a terminal; "label", a new one."""

    kind: str
    text: str


class Closed(Exception):
    """Nothing can be asked for now. status: in the words of HTTP."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class LessonBoard:
    """What the thread that teaches shows and takes, and those of the server tell and ask.

    keys: those that mean something. clock: ``time.monotonic``.
    """

    def __init__(self, keys: str, *, clock: Callable[[], float] = time.monotonic):
        self._keys, self._clock = keys, clock
        self._wishes: queue.Queue[Wish] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        self._shown: Mapping[str, Any] = {}
        self._messages: deque[tuple[int, str]] = deque(maxlen=_MESSAGES_SHOWN)
        self._told, self._over, self._looked_s = 0, False, float("-inf")

    # Of the one who teaches.

    def show(self, shown: Mapping[str, Any]) -> None:
        """What goes on, as plain JSON values; it is kept."""
        self._shown = shown

    def tell(self, text: str) -> None:
        """What happened, in a line."""
        with self._lock:
            self._told += 1
            self._messages.append((self._told, text))

    def take(self) -> list[Wish]:
        """What was asked for since, in order; never waits."""
        taken = []
        while not self._wishes.empty():
            taken.append(self._wishes.get_nowait())
        return taken

    def end(self, wait: Callable[[float], Any] = time.sleep) -> None:
        """It is over. Those who look are given the time to see that, and the last messages; nobody else is waited
        for."""
        self._over = True
        if self._clock() - self._looked_s <= _LOOKED_S:
            wait(0.7)

    # Of those at the page.

    def state(self) -> dict[str, Any]:
        """All of it, as plain JSON values: docs/serve.md names them."""
        self._looked_s = self._clock()
        with self._lock:
            return {**self._shown, "messages": [list(one) for one in self._messages], "over": self._over}

    def ask(self, body: bytes) -> None:
        """Asks for {"keys": "1"} or {"label": "wave"}. Raises ValueError for what is neither, Closed."""
        wish = self._wish(body)
        if self._over:
            raise Closed(409, "the lesson is over")
        try:
            self._wishes.put_nowait(wish)
        except queue.Full:
            raise Closed(503, "what was asked for before still waits: the camera gives no pictures") from None

    def _wish(self, body: bytes) -> Wish:
        try:
            value = parse(body)
        except ValueError as error:
            raise ValueError(f"this is no JSON: {error}") from None
        kind, text = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
        if kind not in ("keys", "label") or not isinstance(text, str) or not 0 < len(text) <= _MOST_CHARACTERS:
            raise ValueError(
                f'expected {{"keys": "1"}} or {{"label": "wave"}}, with 1 to {_MOST_CHARACTERS} characters, got '
                f"{body.decode()[:100]}"
            )
        if kind == "keys" and (unknown := text.strip(self._keys)):
            raise ValueError(f"there is no key {unknown[0]!r}; expected some of {self._keys!r}")
        return Wish(kind, text)
