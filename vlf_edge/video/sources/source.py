"""What a source of frames is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...types import Frame

DEFAULT_FPS = 30.0
KINDS = (
    "0, /dev/videoN, csi://N, rtsp://, http://, a GStreamer pipeline, a video file, a folder, a glob, frames_%04d.jpg, "
    "test://motion"
)


class Source(ABC):
    """A stream of frames.

    name: what the user called it. live: frames come at their own pace and old ones lose their worth. fps: frames a
    second, as far as the source knows, else 0. paths: the files it reads. undecoded: how many frames came that could
    not be decoded. overrun: how many were dropped since nobody read them in time.
    """

    live = False
    fps = 0.0
    paths: tuple[Path, ...] = ()
    undecoded = overrun = 0

    def __init__(self, name: str):
        self.name = name
        self._seq = 0

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame; None at the end. Raises SourceError when frames should come but do not."""

    def close(self) -> None:
        """Releases the device or file; idempotent, and safe while another thread reads."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _frame(self, image: np.ndarray, t_s: float, *, begins: bool = False) -> Frame:
        frame = Frame(image, t_s, self._seq, time.monotonic(), begins)
        self._seq += 1
        return frame


@dataclass(frozen=True)
class Address:
    """Where frames can be had, checked but not opened.

    name: what the user called it, without passwords: safe to print. live: see ``Source``. open: gives the source, a new
    one at every call; raises SourceError, CameraError while it is not to be had. again: whether a second call can
    succeed once the first source has ended or failed (a camera or a file, but no generator). fps, paths: as of a
    Source that does not know.
    """

    name: str
    live: bool
    open: Callable[[], Source]
    again: bool = False

    fps = 0.0
    paths = ()
