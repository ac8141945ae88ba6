"""The newest picture of each stream as JPEG: made when somebody asks, once for all who do, and not too often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..opencv import load_cv2
from .board import Board

_LONGEST_PX, _QUALITY = 960, 80
_MOST_FPS = 12.0
_SHARE = 0.25  # of one core, at most, for all streams together
_WATCHED_S = 2.0  # after its last viewer asked


@dataclass
class _Made:
    number: int = 0
    jpeg: bytes = b""
    made_s: float = float("-inf")
    asked_s: float = float("-inf")


class Pictures:
    """The pictures of a board. Serves any thread; each stream's share of the time is the same.

    encode: image (H, W, 3) uint8 BGR -> JPEG. clock: ``time.monotonic``, by which the encoding is timed too.
    """

    def __init__(
        self,
        board: Board,
        encode: Callable[[np.ndarray], bytes] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._board, self._encode, self._clock = board, encode or encode_jpeg, clock
        self._lock = threading.Lock()
        self._made: dict[str, _Made] = {}
        self._takes_s = 0.0

    def newest(self, stream: str) -> tuple[int, bytes] | None:
        """The newest JPEG of a stream and the number of its image (``Board.image``); None while there is none.

        Between two encodings of a stream the older one is given. Raises KeyError for a stream that is not there.
        """
        newest = self._board.image(stream)
        if newest is None:
            return None
        with self._lock:
            now_s, made = self._clock(), self._made.setdefault(stream, _Made())
            made.asked_s = now_s
            watched = sum(now_s - other.asked_s <= _WATCHED_S for other in self._made.values())
            every_s = max(1 / _MOST_FPS, self._takes_s * watched / _SHARE)
            if made.number != newest[0] and now_s - made.made_s >= every_s:
                made.jpeg, made.number, made.made_s = self._encode(newest[1]), newest[0], now_s
                took_s = self._clock() - now_s
                self._takes_s = took_s if not self._takes_s else 0.9 * self._takes_s + 0.1 * took_s
            return made.number, made.jpeg


def encode_jpeg(image: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 BGR as JPEG, at most 960 px on its longer side."""
    cv2 = load_cv2()
    height, width = image.shape[:2]
    scale = _LONGEST_PX / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
