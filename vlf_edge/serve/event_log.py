"""The newest events, and what has changed since somebody last looked. Plain code: the board's lock guards it."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..types import Event


@dataclass(frozen=True)
class Noted:
    """An event as it was last told. change: number of that telling. began_s, told_s: when the action began and when
    this was told, as UNIX times; began_s is None where the source's clock is no clock of ours, as in a file."""

    event: Event
    change: int
    began_s: float | None
    told_s: float


class EventLog:
    """At most ``most`` events, the newest ones; one that ends takes the place of its beginning.

    run: names this log. A cursor, "RUN-CHANGE", says what somebody has seen of it; one of another run has seen nothing.
    """

    def __init__(self, most: int = 500, run: str | None = None):
        self.run = run or secrets.token_hex(4)
        self._most = most
        self._changes = 0
        self._noted: OrderedDict[tuple[str, int], Noted] = OrderedDict()

    def note(self, event: Event, began_s: float | None, told_s: float) -> None:
        """Adds an event, or what became of it."""
        self._changes += 1
        key = (event.stream, event.id)
        self._noted[key] = Noted(event, self._changes, began_s, told_s)
        while len(self._noted) > self._most:
            self._noted.popitem(last=False)

    def known(self, event: Event) -> Noted | None:
        """An event as it was told before, if it was and is kept."""
        return self._noted.get((event.stream, event.id))

    @property
    def cursor(self) -> str:
        """What has been seen by somebody who has seen all."""
        return f"{self.run}-{self._changes}"

    def seen(self, cursor: str) -> int:
        """The change up to which a cursor has seen. Raises ValueError for what is no cursor."""
        run, _, number = cursor.rpartition("-")
        if not run or not number.isascii() or not number.isdigit():
            raise ValueError(f"{cursor[:40]!r} is no cursor; expected one that was given, such as {self.cursor}")
        return min(int(number[:18]), self._changes) if run == self.run else 0

    def newest(
        self, *, after: int = 0, told_since_s: float = 0.0, limit: int = 100, stream: str | None = None,
        label: str | None = None,
    ) -> list[Noted]:  # fmt: skip
        """The newest ``limit`` events told after a change and since a UNIX time, in the order of the telling."""
        if after == self._changes:
            return []
        found = [
            noted
            for noted in self._noted.values()
            if noted.change > after
            and noted.told_s >= told_since_s
            and stream in (None, noted.event.stream)
            and label in (None, noted.event.label)
        ]
        return sorted(found, key=lambda noted: noted.change)[-limit:]

    def cursor_of(self, noted: Noted) -> str:
        """The cursor of somebody who has seen all up to this."""
        return f"{self.run}-{noted.change}"


def to_json(noted: Noted, clip: str | None) -> dict[str, Any]:
    """An event as plain JSON values. clip: where its video is, if there is one."""
    event = noted.event
    return {
        "id": event.id,
        "stream": event.stream,
        "label": event.label,
        "t_start_s": round(event.t_start_s, 3),
        "t_end_s": None if event.t_end_s is None else round(event.t_end_s, 3),
        "began_s": None if noted.began_s is None else round(noted.began_s, 3),
        "peak_score": round(event.peak_score, 4),
        "clip": clip,
    }
