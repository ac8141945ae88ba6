"""A bounded hand-over between two threads that cannot hang.

``send`` on a full channel waits or drops the oldest item, by the policy the channel was made with. ``close`` wakes both
ends: the sender learns that nobody listens any more, the receiver takes what is left and then ends, or raises the error
that the channel was closed with.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """Sent into, or received from, a channel that is closed and empty. Not an error of the user's."""


class Channel(Generic[T]):
    """One sender, one receiver, at most ``capacity`` items between them.

    drop_oldest: a full channel discards its oldest item to take the new one (cameras: the newest counts); otherwise
    the sender waits (files: every frame counts). patience_s: how long it waits for a receiver that takes nothing (None:
    for ever); then the oldest are discarded until the receiver takes one. precious: of which items others are discarded
    first. ``dropped`` counts the discarded.
    """

    def __init__(
        self,
        capacity: int,
        *,
        drop_oldest: bool,
        patience_s: float | None = None,
        precious: Callable[[T], bool] = lambda item: False,
    ):
        self._capacity, self._drop_oldest, self._patience_s = capacity, drop_oldest, patience_s
        self._precious = precious
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._patient = True
        self._error: BaseException | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def send(self, item: T) -> None:
        """Hands an item over. Raises ChannelClosed if the channel is closed, also while waiting."""
        with self._changed:
            if not self._drop_oldest and self._patient:
                self._patient = self._changed.wait_for(lambda: self._closed or self._has_room, self._patience_s)
            if self._closed:
                raise ChannelClosed
            if not self._has_room:
                self._discard_one()
            self._items.append(item)
            self._changed.notify_all()

    def receive(self) -> T:
        """The oldest item; waits for one. On a closed, empty channel raises the error it was closed with, else
        ChannelClosed."""
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
            if self._items:
                item = self._items.popleft()
                self._patient = True
                self._changed.notify_all()
                return item
            raise self._error or ChannelClosed

    def close(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Ends the channel from either side; the first error given is kept. discard: throw away what is left."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            if discard:
                self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Items until the channel is closed and empty; then ends, or raises the error it was closed with."""
        while True:
            try:
                yield self.receive()
            except ChannelClosed:
                return

    @property
    def _has_room(self) -> bool:
        return len(self._items) < self._capacity

    def _discard_one(self) -> None:
        at = next((i for i, item in enumerate(self._items) if not self._precious(item)), 0)
        del self._items[at]
        self.dropped += 1
