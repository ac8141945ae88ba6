"""A machine that cannot decode a stream as fast as it comes: parts of it are left out, so that the rest is new."""

from __future__ import annotations

_BUSY_S = 1.5  # without a moment of waiting
_WAITED_S = 2e-3  # what had come already is there at once


class CatchUp:
    """Which packets of a live stream to pass over.

    Whoever never has to wait for the next packet is behind: what came meanwhile piles up in the buffers of the system,
    seconds of it. Then all is passed over until there was a wait again, and on to the next key frame.
    """

    def __init__(self) -> None:
        self._waited_at_s: float | None = None
        self._behind = self._drained = False

    def skip(self, asked_s: float, came_s: float, *, key: bool) -> bool:
        """Whether to pass over a packet. asked_s, came_s: monotonic, when it was asked for and when it was there; key:
        it can be decoded without those before it."""
        waited = came_s - asked_s >= _WAITED_S
        if waited or self._waited_at_s is None:
            self._waited_at_s = came_s
        if self._behind:
            self._drained |= waited
            self._behind = not (self._drained and key)
        elif came_s - self._waited_at_s > _BUSY_S:
            self._behind, self._drained = True, False
        return self._behind
