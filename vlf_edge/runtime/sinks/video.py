"""Videos: what is written frame by frame, and is there when it is whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import Replacement, check_replaceable
from ...errors import SourceError
from ...opencv import load_cv2
from ...options import option
from ...types import Frame, Prediction
from ...video.sources import DEFAULT_FPS, IMAGE_SUFFIXES, Address, Source
from .annotation import annotate
from .sink import Run, Sink

_PACING = 16  # frames


class VideoWriter:
    """A video file that images (H, W, 3) uint8 BGR, all of one size, are written to.

    It lies beside ``path`` while it grows, and takes its place when it is closed. The codec follows the ending: .avi
    Motion JPEG, anything else MPEG-4. Raises SourceError if OpenCV cannot write it, or if something is at ``path`` that
    is no file. fps: may be changed until the first image.
    """

    def __init__(self, path: str | Path, fps: float):
        self._cv2 = load_cv2()
        self._path, self.fps = Path(path), fps
        self._writer: Any = None
        self._written = 0
        if not self._path.parent.is_dir():
            raise SourceError(f"cannot write {path}: there is no folder {self._path.parent}")
        if self._path.suffix.lower() in IMAGE_SUFFIXES:
            raise SourceError(f"cannot write {path}: it is to be a video; name an .mp4 or .avi file")
        self._checked(check_replaceable, self._path)

    def write(self, image: np.ndarray) -> None:
        """Appends an image."""
        if self._writer is None:
            self._shape, self._writer = image.shape, self._open(image)
        if image.shape != self._shape:
            raise SourceError(f"{self._path}: a frame has the shape {image.shape}, the first one had {self._shape}")
        self._writer.write(image)
        self._written += 1

    def close(self) -> None:
        """Finishes the file and puts it in its place; idempotent.

        Raises SourceError if frames are missing from it, as when the disk is full: it is then thrown away.
        """
        if self._writer is None:
            return
        try:
            self._release()
            # OpenCV reports no failed write: the file itself has to be asked.
            capture = self._cv2.VideoCapture(str(self._new.partial))
            kept = max(0, int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT)))
            capture.release()
            if kept < self._written:
                raise SourceError(
                    f"cannot write {self._path}: only {kept} of its {self._written} frames were kept; is the disk full?"
                )
            self._checked(self._new.commit)
        finally:
            self._new.discard()

    def discard(self) -> None:
        """Throws away what was written so far; without effect once closed."""
        if self._writer is not None:
            self._release()
            self._new.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info) -> None:
        self.close() if kind is None else self.discard()

    def _release(self) -> None:
        self._writer.release()
        self._writer = None

    def _checked(self, do: Callable[..., Any], *args: Any) -> Any:
        try:
            return do(*args)
        except OSError as error:
            raise SourceError(f"cannot write {self._path}: {error.strerror}") from None

    def _open(self, image: np.ndarray) -> Any:
        code = "MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"
        size = (image.shape[1], image.shape[0])
        self._new = self._checked(Replacement, self._path)
        writer = self._cv2.VideoWriter(str(self._new.partial), self._cv2.VideoWriter_fourcc(*code), self.fps, size)
        if not writer.isOpened():
            self._new.discard()
            raise SourceError(
                f"OpenCV cannot write {code} video to {self._path}: no right to, or an ending it does not know "
                "(.avi and .mp4 it does)"
            )
        return writer


class VideoSink(Sink):
    """Every frame that reached the recogniser, with the latest decision on it, as a video (class VideoWriter).

    source: gives the frame rate, which is measured on the first frames if it knows none; its own files are never
    written to. stream: only that stream's frames (None: all). A camera that comes back with another size is scaled.
    """

    every_frame = True

    def __init__(self, path: str | Path, source: Source | Address, stream: str | None = None):
        self._stream, self._path = stream, path
        for read in source.paths:
            if Path(path).exists() and Path(path).samefile(read):
                raise SourceError(f"cannot save to {path}: it is what {source.name} is read from; give another name")
        self._writer = VideoWriter(path, source.fps or DEFAULT_FPS)
        self._unpaced: list[tuple[float, np.ndarray]] | None = None if source.fps else []
        self._latest: Prediction | None = None
        self._size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return str(self._path)

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None and self._stream in (None, prediction.stream):
            self._latest = prediction
        if frame is None or self._stream not in (None, frame.stream):
            return
        image = annotate(self._scaled(frame.image), self._latest)
        if self._unpaced is None:
            self._writer.write(image)
            return
        self._unpaced.append((frame.t_s, image))
        if len(self._unpaced) == _PACING:
            self._write_unpaced()

    def close(self) -> None:
        self._write_unpaced()
        self._writer.close()

    def _scaled(self, image: np.ndarray) -> np.ndarray:
        self._size = self._size or (image.shape[1], image.shape[0])
        same = (image.shape[1], image.shape[0]) == self._size
        return image if same else load_cv2().resize(image, self._size, interpolation=load_cv2().INTER_AREA)

    def _write_unpaced(self) -> None:
        """The frames that the rate was measured on; the median, since a camera may have been away."""
        unpaced, self._unpaced = self._unpaced or [], None
        steps_s = np.diff([t_s for t_s, _ in unpaced])
        if (forward_s := steps_s[steps_s > 0]).size:
            self._writer.fps = 1 / float(np.median(forward_s))
        for _, image in unpaced:
            self._writer.write(image)


@dataclass(frozen=True)
class VideoOptions:
    """What the command line says of it."""

    save: str | None = option(
        None,
        "also write the video with the decisions on it (.mp4 or .avi); of several sources, FILE-SOURCE each",
        "FILE",
    )


def open_videos(options: VideoOptions, run: Run) -> Iterator[Sink]:
    if options.save is not None:
        for stream, source in run.sources.items():
            alone = len(run.sources) == 1
            path = options.save if alone else video_of(options.save, stream)
            yield VideoSink(path, source, stream)  # others may come while the run goes on, and have no video


def video_of(path: str, stream: str) -> Path:
    """Where the video of one of several streams goes: out.mp4 -> out-door.mp4."""
    whole = Path(path)
    return whole.with_name(f"{whole.stem}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stream)}{whole.suffix}")
