"""What is read from the network through PyAV (FFmpeg), on a thread of its own.

The thread takes what comes at once, so that no buffer of the system or of FFmpeg grows behind a slow reader: of a
camera only the newest frames wait here, a recording's wait to be read. And it is the thread that hangs in a read, so
that ``close`` and a time limit end the reader's wait at once; the thread follows when FFmpeg's own limit is over.
"""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from ...errors import AccessDenied, BackendMissing, CameraError, SourceError, raise_interrupt
from ...opencv import load_cv2
from ...types import Frame
from .catch_up import CatchUp
from .options import SourceOptions
from .source import Source
from .stamps import Stamps
from .url import Url

_WAITING = 4  # frames
# FFmpeg would study a stream for seconds to learn its frame rate, which nobody here believes anyway.
_QUICK = {"analyzeduration": "500000", "fpsprobesize": "0"}
_WITHOUT_STAMPS = ("mpjpeg", "mjpeg", "image2pipe", "jpeg_pipe", "png_pipe")  # FFmpeg counts 25 a second in these


class NetworkSource(Source):
    """A video stream behind an address.

    url: where. options: time limits, and whose time stamps. settings: of FFmpeg. live: of a camera the newest frames
    count, of a recording all. clock: monotonic seconds, for the time limit of a read.
    overrun: how many frames came and were not read in time; their numbers are missing. undecoded: how many could not be
    decoded.
    Raises CameraError while nobody answers, SourceError, and BackendMissing without PyAV.
    """

    def __init__(
        self,
        url: Url,
        options: SourceOptions | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        live: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(str(url))
        self.live = live
        options = options or SourceOptions()
        self._limit_s, self._clock = options.read_timeout_s, clock
        self._reading = _Reading(load_av(), url, options, _QUICK | dict(settings or {}), live)
        # The thread knows the reading and not this object: dropped without a close, it still ends.
        self._end = weakref.finalize(self, self._reading.close)
        threading.Thread(target=self._reading.run, name="vlf-network", daemon=True).start()
        try:
            self.fps = self._reading.wait_open(self._clock() + options.open_timeout_s, options.open_timeout_s, clock)
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame | None:
        taken = self._reading.take(self._clock() + self._limit_s, self._limit_s, self._clock)
        return None if taken is None else self._reading.convert(taken)

    @property
    def undecoded(self) -> int:
        return self._reading.undecoded

    @property
    def overrun(self) -> int:
        return self._reading.overrun

    def close(self) -> None:
        self._end()


class _Reading:
    """What the thread and the source share. One condition guards it."""

    def __init__(self, av: ModuleType, url: Url, options: SourceOptions, settings: dict[str, str], live: bool):
        self._av, self._url, self._options, self._settings, self._live = av, url, options, settings, live
        self._changed = threading.Condition()
        self._frames: deque[tuple[Any, Frame]] = deque()
        self._error: BaseException | None = None
        self._fps: float | None = None
        self._closed = self._ended = False
        self._stamps: Stamps | None = None
        self._seq = self.undecoded = self.overrun = 0
        self._reformatter = None

    def run(self) -> None:
        error: Exception | None = None
        try:
            self._read_all()
        except Exception as failure:  # its text holds the address with the password
            error = _told(self._av, failure, str(self._url), self._options)
        if error is None and self._live:
            error = CameraError(f"{self._url} gives no more frames: it has closed the connection")
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._changed.notify_all()

    def wait_open(self, until_s: float, limit_s: float, clock: Callable[[], float]) -> float:
        """Frames a second, as far as the stream tells, else 0."""
        with self._changed:
            while self._fps is None and not self._ended:
                self._wait(until_s, clock, f"{self._url} does not answer within {limit_s:g} s")
            if self._fps is None:
                self._raise(self._error or CameraError(f"{self._url} gives no video"))
            return self._fps

    def take(self, until_s: float, limit_s: float, clock: Callable[[], float]) -> tuple[Any, Frame] | None:
        """The oldest frame that waits; None at the end."""
        with self._changed:
            while not self._frames and not self._closed and not self._ended:
                self._wait(until_s, clock, f"{self._url} has given no frame for {limit_s:g} s")
            if self._closed:
                return None
            if not self._frames:
                if self._error is not None:
                    self._raise(self._error)
                return None
            taken = self._frames.popleft()
            self._changed.notify_all()
            return taken

    def convert(self, taken: tuple[Any, Frame]) -> Frame:
        """Only what is read is converted: much of what a camera gives is not."""
        picture, frame = taken
        if self._reformatter is None:
            self._reformatter = self._av.video.reformatter.VideoReformatter()
        image = self._reformatter.reformat(picture, format="bgr24").to_ndarray()
        return Frame(_upright(image, picture.rotation), frame.t_s, frame.seq, frame.captured_s, frame.begins)

    @staticmethod
    def _raise(error: BaseException) -> NoReturn:
        """A copy: once raised, an error holds by its traceback what holds it, and pictures would wait for the garbage
        collector, some megabytes with each outage."""
        raise copy(error)

    def _wait(self, until_s: float, clock: Callable[[], float], sentence: str) -> None:
        left_s = until_s - clock()
        if left_s <= 0:
            raise CameraError(sentence)
        self._changed.wait(left_s)

    def _read_all(self) -> None:
        limits_s = (self._options.open_timeout_s, self._options.read_timeout_s)
        with self._av.open(
            self._url.reveal(), options=self._settings, timeout=limits_s, metadata_errors="replace"
        ) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise SourceError(f"{self._url} holds no video")
            own = self._options.stamps == "own" and not (self._live and container.format.name in _WITHOUT_STAMPS)
            self._stamps = Stamps(str(self._url), own=own)
            # Threads that work on frames side by side hold some of them back.
            stream.thread_type = "SLICE" if self._live else "AUTO"
            with self._changed:
                self._fps = _sane_fps(stream)
                self._changed.notify_all()
            catch_up, asked_s = CatchUp(), time.monotonic()
            for packet in container.demux(stream):
                now_s = time.monotonic()
                # FFmpeg hides one interruption behind what is left in its parsers.
                if now_s - asked_s > limits_s[1]:
                    raise TimeoutError
                if self._live and catch_up.skip(asked_s, now_s, key=packet.is_keyframe):
                    self._seq, self.overrun, asked_s = self._seq + 1, self.overrun + 1, time.monotonic()
                    if self._closed:
                        return
                    continue
                if not all([self._offer(picture, now_s) for picture in self._decoded(packet)]) or self._closed:
                    return
                asked_s = time.monotonic()

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            pictures = packet.decode()
        except self._av.FFmpegError:
            self.undecoded += 1
            return []
        whole = [picture for picture in pictures if not picture.is_corrupt]
        self.undecoded += len(pictures) - len(whole)
        return whole

    def _offer(self, picture: Any, now_s: float) -> bool:
        """Hands a frame over; False when nobody wants it any more."""
        if (stamped := self._stamps.stamp(picture.time, now_s)) is None:
            return True
        frame = Frame(_NO_IMAGE, stamped[0], self._seq, now_s, stamped[1])
        self._seq += 1
        with self._changed:
            while len(self._frames) >= _WAITING and not self._live and not self._closed:
                self._changed.wait()
            if len(self._frames) >= _WAITING:
                self._frames.popleft()
                self.overrun += 1
            if not self._closed:
                self._frames.append((picture, frame))
                self._changed.notify_all()
            return not self._closed


_NO_IMAGE = np.empty((0, 0, 3), np.uint8)


def load_av() -> ModuleType:
    """PyAV. Raises BackendMissing with the install line."""
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise_interrupt(error)
        raise BackendMissing(
            f"cameras in the network are read through PyAV, which is not installed ({error})",
            remedy="pip install 'vlf_edge[camera]'",
        ) from None
    return av


def _told(av: ModuleType, failure: Exception, name: str, options: SourceOptions) -> Exception:
    """An error in our words. Nothing of the library's text but its own name for the error is taken over."""
    if isinstance(failure, SourceError):
        return failure
    if isinstance(failure, (av.error.ExitError, TimeoutError)):
        limit_s = max(options.open_timeout_s, options.read_timeout_s)
        return CameraError(f"{name} has stopped answering: nothing came within {limit_s:g} s")
    if isinstance(failure, av.error.HTTPUnauthorizedError):
        return AccessDenied(
            f"{name} refuses the user or the password",
            remedy="a % in a password is written %25 and an @ after the host %40: see docs/sources.md",
        )
    if isinstance(failure, ConnectionRefusedError):
        return CameraError(f"{name} refuses the connection: is it on, and is the port right?")
    if isinstance(failure, av.error.OSError) and failure.errno == errno.EIO:  # what FFmpeg says of unknown names
        return CameraError(f"{name} cannot be reached: is the host's name right, and is it on?")
    if isinstance(failure, av.error.FFmpegError):
        return CameraError(f"{name} cannot be read: {failure.strerror}")
    return CameraError(f"{name} cannot be read: {type(failure).__name__}")


def _sane_fps(stream: Any) -> float:
    """Headers claim anything."""
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    return fps if 0 < fps < 1e4 else 0.0


def _upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """Phones note in the file how they were held. rotation: degrees that the picture is to be turned to the left."""
    cv2 = load_cv2()
    turns = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
    turn = turns.get(rotation % 360)
    return image if turn is None else cv2.rotate(image, turn)
