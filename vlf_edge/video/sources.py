"""Where frames come from: one class per kind of source, chosen by ``open_source`` from what the user wrote.

Files give every frame, stamped with the time inside the file. Cameras give the newest, stamped with the monotonic
clock. Both are read the same way: ``for frame in source``.
"""

from __future__ import annotations

import glob
import math
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CameraError, SourceError
from ..opencv import load_cv2
from ..types import Frame
from .cut_off import is_cut_off, note_missing_frames
from .images import read_image
from .motion_pattern import MotionPattern, parse_motion_url
from .preprocess import check_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mjpeg")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
KINDS = "a camera number (0), /dev/videoN, a video file, a folder, a glob, frames_%04d.jpg, test://motion"
DEFAULT_FPS = 30.0


class Source(ABC):
    """A stream of frames.

    name: what the user called it. live: frames come at their own pace and old ones lose their worth. fps: frames a
    second, as far as the source knows, else 0. paths: the files it reads.
    """

    live = False
    fps = 0.0
    paths: tuple[Path, ...] = ()

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


class _CaptureSource(Source):
    """What a camera and a video file share: a cv2.VideoCapture that is never released under a running read."""

    def __init__(self, name: str, capture: Any):
        super().__init__(name)
        self._capture, self._position_ms = capture, load_cv2().CAP_PROP_POS_MSEC
        self._reading = threading.Lock()
        self._closed = False

    def _grab(self) -> tuple[np.ndarray, float] | None:
        """The next image and its position in the stream, ms; None at the end or once closed."""
        with self._reading:
            try:
                ok, image = (False, None) if self._closed else self._capture.read()
            except load_cv2().error as error:  # such as frames too large for the memory
                raise SourceError(f"{self.name}: OpenCV cannot decode frame {self._seq}: {error}") from None
            grabbed = (image, self._capture.get(self._position_ms)) if ok and not self._closed else None
        if self._closed:
            # The close() that came while this read held the device left its release to us.
            self.close()
            return None
        return grabbed

    def close(self) -> None:
        self._closed = True
        # A read that is under way releases the device itself when it returns.
        if self._reading.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._reading.release()


class CameraSource(_CaptureSource):
    """A V4L2 camera by number or path. Frames are stamped when they arrive."""

    live = True

    def __init__(self, device: int | str):
        cv2 = load_cv2()
        name = f"/dev/video{device}" if isinstance(device, int) else device
        if not Path(name).exists():
            present = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise CameraError(f"no camera at {name}; cameras here: {present}; without one try: test://motion")
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError(f"{name} is there but does not open: busy, not a camera, or no right to it (group video)")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        super().__init__(name, capture)
        self.fps = capture.get(cv2.CAP_PROP_FPS)

    def read(self) -> Frame | None:
        grabbed = self._grab()
        if grabbed is None and not self._closed:
            raise CameraError(f"{self.name} gives no more frames: unplugged, or taken over by another program")
        return None if grabbed is None else self._frame(grabbed[0], time.monotonic())


class VideoFileSource(_CaptureSource):
    """A video file: every frame, at the time the container gives it.

    missing: how many frames a file that is cut off lacks, known at its end, 0 before; a warning says so.
    """

    missing = 0

    def __init__(self, path: str | Path):
        cv2 = load_cv2()
        if not Path(path).is_file():
            raise SourceError(f"no file at {path}; a source is {KINDS}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"no right to read {path}")
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            why = ": it is cut off; copy or record it again" if is_cut_off(Path(path)) else ""
            raise SourceError(f"{path} is not a video that OpenCV {cv2.__version__} can decode{why}")
        super().__init__(str(path), capture)
        self.paths = (Path(path),)
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1e4 else DEFAULT_FPS  # broken headers claim anything, NaN too
        self._last_s = -1.0 / self.fps
        self._announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def read(self) -> Frame | None:
        grabbed = self._grab()
        if grabbed is None:
            if self._seq == 0 and not self._closed:
                raise SourceError(f"{self.name} opens but holds no frame that can be decoded")
            if not self._closed and not self.missing:
                self.missing = note_missing_frames(self.paths[0], self._announced, self.fps, self._seq, self._last_s)
            return None
        image, position_ms = grabbed
        # Some containers carry no time stamps; the frame rate is then all there is.
        stamped = self._last_s < position_ms / 1e3 < math.inf
        self._last_s = position_ms / 1e3 if stamped else self._last_s + 1.0 / self.fps
        return self._frame(image, self._last_s)


class ImageFilesSource(Source):
    """Image files as the frames of a video, ``fps`` a second, in the order given."""

    def __init__(self, name: str, paths: Sequence[Path], fps: float | None = None):
        super().__init__(name)
        self.paths = tuple(paths)
        self.fps = fps or DEFAULT_FPS

    def read(self) -> Frame | None:
        if self._seq == len(self.paths):
            return None
        return self._frame(read_image(self.paths[self._seq]), self._seq / self.fps)


class PlaylistSource(Source):
    """Video files one after another, each on its own clock. The first frame of each says that it begins something new,
    so that no window ever straddles two files."""

    def __init__(self, name: str, paths: Sequence[Path]):
        super().__init__(name)
        self.paths = tuple(paths)
        self._waiting = list(paths)
        self._current: VideoFileSource | None = None
        self._closed = False
        with VideoFileSource(self._waiting[0]) as first:
            self.fps = first.fps

    def read(self) -> Frame | None:
        while not self._closed:
            if self._current is None:
                if not self._waiting:
                    return None
                self._current = VideoFileSource(self._waiting.pop(0))
            frame = self._current.read()
            if frame is not None:
                return self._frame(frame.image, frame.t_s, begins=frame.seq == 0 and self._seq > 0)
            self._current.close()
            self._current = None
        return None

    def close(self) -> None:
        self._closed = True
        if (current := self._current) is not None:
            current.close()


class IterableSource(Source):
    """Any iterable of images (H, W, 3) uint8 BGR, or of (image, t_s) pairs; without times, ``fps`` a second.

    Every image must be an array of its own: several wait at a time, and one that is written to again shows the wrong
    moment.
    """

    def __init__(self, images: Iterable[Any], fps: float | None = None):
        super().__init__(type(images).__name__)
        self._images = iter(images)
        self.fps = fps or DEFAULT_FPS
        self._closed = False

    def read(self) -> Frame | None:
        if self._closed:
            return None
        for item in self._images:
            image, t_s = item if isinstance(item, tuple) else (item, self._seq / self.fps)
            check_image(image)
            return self._frame(image, float(t_s))
        return None

    def close(self) -> None:
        self._closed = True


class MotionSource(Source):
    """test://motion: rendered motion, for trying things without a camera (class MotionPattern)."""

    def __init__(self, url: str):
        super().__init__(url)
        options = parse_motion_url(url)
        self._pattern = MotionPattern(options)
        self.fps = options.fps
        self._closed = False

    def read(self) -> Frame | None:
        if self._closed or self._seq == self._pattern.count:
            return None
        t_s = self._seq / self.fps
        return self._frame(self._pattern.render(t_s), t_s)

    def close(self) -> None:
        self._closed = True


def open_source(what: Any, *, fps: float | None = None) -> Source:
    """Opens whatever the user named.

    what: a camera number or "/dev/videoN"; a video file; a folder of videos or of images; a glob; a numbered pattern
    such as "frames_%04d.jpg"; "test://motion"; an iterable of images or of (image, t_s); or a Source, returned as is.
    fps: of image files and of iterables without times (default 30). Raises SourceError, CameraError.
    """
    if fps is not None and not 0 < fps < 1e4:
        raise SourceError(f"fps is {fps}; expected frames a second, above 0")
    if isinstance(what, Source):
        return what
    if isinstance(what, int):
        return CameraSource(what)
    if isinstance(what, (str, Path)):
        try:
            return _open_named(str(what), fps)
        except OSError as error:
            raise SourceError(f"cannot read {what}: {error.strerror}") from None
    if isinstance(what, Iterable):
        return IterableSource(what, fps)
    raise SourceError(f"cannot read frames from {type(what).__name__}; a source is {KINDS}, or an iterable of images")


def expand_clips(what: str | Path) -> list[str]:
    """The clips behind a name: every video of a folder (and its sub-folders) or glob apart, anything else as itself."""
    name = str(what)
    if Path(name).is_dir():
        found = Path(name).rglob("*")
    elif glob.has_magic(name) and not Path(name).exists():
        found = map(Path, glob.glob(name, recursive=True))
    else:
        return [name]
    videos = sorted((p for p in found if p.suffix.lower() in VIDEO_SUFFIXES), key=_as_counted)
    return [str(p) for p in videos] or [name]


def _open_named(name: str, fps: float | None) -> Source:
    if name.isascii() and name.isdigit():
        return CameraSource(int(name))
    if name.startswith("/dev/video"):
        return CameraSource(name)
    if name.startswith("test://"):
        return MotionSource(name)
    if "://" in name:
        scheme = name.split("://")[0]
        raise SourceError(f"{scheme}:// sources are not supported by this version; a source is {KINDS}")
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageFilesSource(name, [path], fps)
        return VideoFileSource(path)
    if path.is_dir():
        return _open_files(name, [p for p in path.iterdir() if p.is_file()], fps)
    if re.search(r"%0?\d*d", name):
        pattern = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(path.name).replace(r"\%", "%")))
        here = path.parent.iterdir() if path.parent.is_dir() else ()
        return _open_files(name, [p for p in here if pattern.fullmatch(p.name)], fps)
    if glob.has_magic(name):
        return _open_files(name, [Path(p) for p in glob.glob(name, recursive=True)], fps)
    raise SourceError(f"no file, folder or camera at {name}; a source is {KINDS}")


def _as_counted(path: Path) -> list[tuple[int, str]]:
    """Sorts img2 before img10, as people count."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _open_files(name: str, paths: Sequence[Path], fps: float | None) -> Source:
    paths = sorted(paths, key=_as_counted)
    videos = [p for p in paths if p.suffix.lower() in VIDEO_SUFFIXES]
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES]
    if videos and images:
        raise SourceError(
            f"{name} holds {len(videos)} videos and {len(images)} images; name one kind, for example with a glob"
        )
    if videos:
        return PlaylistSource(name, videos) if len(videos) > 1 else VideoFileSource(videos[0])
    if images:
        return ImageFilesSource(name, images, fps)
    raise SourceError(
        f"{name} holds no video or image file; known endings: {', '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)}"
    )
