"""A bounded hand-over between two threads that cannot hang.

``send`` on a full channel waits or drops the oldest item, by the policy the channel was made with. ``close`` wakes both
ends: the sender learns that nobody listens any more, the receiver takes what is left and then ends, or raises the error
that the channel was closed with.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """Sent into, or received from, a channel that is closed and empty. Not an error of the user's."""


class Channel(Generic[T]):
    """One sender, one receiver, at most ``capacity`` items between them.

    drop_oldest: a full channel discards its oldest item to take the new one (cameras: the newest counts); otherwise
    the sender waits (files: every frame counts). ``dropped`` counts the discarded.
    """

    def __init__(self, capacity: int, *, drop_oldest: bool):
        self._capacity, self._drop_oldest = capacity, drop_oldest
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def send(self, item: T) -> None:
        """Hands an item over. Raises ChannelClosed if the channel is closed, also while waiting."""
        with self._changed:
            while not self._closed and not self._drop_oldest and len(self._items) >= self._capacity:
                self._changed.wait()
            if self._closed:
                raise ChannelClosed
            if len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped += 1
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
