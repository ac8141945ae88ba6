"""H.264 in MP4, which browsers play, through PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import Replacement
from ...errors import SourceError, one_line

_ENCODERS = ("libx264", "libopenh264")
_TICKS = 90_000  # a second, as is usual for video
_RATE = 15  # frames a second, about: for the encoder's estimates, since frames have times of their own


def can_encode_h264() -> bool:
    """Whether PyAV is here, and has an encoder."""
    try:
        import av
    except ImportError:
        return False
    return _encoder_of(av) is not None


def _encoder_of(av: Any) -> str | None:
    return next((name for name in _ENCODERS if name in av.codecs_available), None)


class H264Writer:
    """A video of images (H, W, 3) uint8 BGR of one size, each shown from its own time on; complete or not there.

    Odd sizes lose their last row or column. For machines where ``can_encode_h264``. Raises SourceError if it cannot be
    written.
    """

    def __init__(self, path: Path):
        import av

        self._av, self._path, self._encoder = av, path, _encoder_of(av)
        self._container: Any = None
        self._last_tick = -1

    def write(self, image: np.ndarray, t_s: float) -> None:
        """Appends an image. t_s: when it is shown, from 0 on; one that comes before its predecessor is left out."""
        tick = round(t_s * _TICKS)
        if tick <= self._last_tick:
            return
        if self._container is None:
            self._open(image)
        height, width = self._stream.height, self._stream.width
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="bgr24")
        frame.pts, frame.time_base, self._last_tick = tick, Fraction(1, _TICKS), tick
        self._mux(frame)

    def close(self) -> None:
        """Puts the video in its place; idempotent. Raises SourceError, and nothing is left of it then."""
        if self._container is None:
            return
        try:
            self._mux(None)
            self._checked(self._container.close)
            self._container = None
            self._checked(self._new.commit)
        finally:
            self.discard()

    def discard(self) -> None:
        """Throws away what was written so far; without effect once closed."""
        container, self._container = self._container, None
        try:
            if container is not None:
                container.close()
        except (OSError, self._av.FFmpegError):
            pass
        finally:
            if self._last_tick >= 0:
                self._new.discard()

    def _open(self, image: np.ndarray) -> None:
        self._new = self._checked(Replacement, self._path)
        self._last_tick = 0
        try:
            options = {"movflags": "faststart"}  # so that a browser begins before it has all of it
            self._container = self._checked(self._av.open, str(self._new.partial), "w", format="mp4", options=options)
            self._stream = self._container.add_stream(self._encoder, rate=_RATE)
            self._stream.height, self._stream.width = (size // 2 * 2 for size in image.shape[:2])
            self._stream.pix_fmt, self._stream.time_base = "yuv420p", Fraction(1, _TICKS)
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream.codec_context.thread_count = 1
            self._stream.options = {"preset": "superfast", "crf": "26"} if self._encoder == "libx264" else {}
        except BaseException:
            self.discard()
            raise

    def _mux(self, frame: Any) -> None:
        for packet in self._checked(self._stream.encode, frame):
            self._checked(self._container.mux, packet)

    def _checked(self, do: Any, *args: Any, **options: Any) -> Any:
        try:
            return do(*args, **options)
        except (OSError, self._av.FFmpegError) as error:
            raise SourceError(f"cannot write {self._path}: {one_line(error)}") from None
