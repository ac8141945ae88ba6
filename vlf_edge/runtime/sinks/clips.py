"""A short video of every event: what was seen a few seconds before it, while it lasted, and a few seconds after."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SourceError, VlfError
from ...opencv import load_cv2
from ...options import check_options, option
from ...types import Event, Frame, Prediction
from .h264 import H264Writer, can_encode_h264
from .health import Health
from .sink import Run, Sink
from .video import VideoWriter

log = logging.getLogger(__name__)
_MAX_FPS = 15.0
_SLACK = 0.9  # of a step between two frames, so that a camera of about that rate keeps all of them
_LATE_S = 10.0  # an event is told only when it is sure, some seconds after its start
_RING_BYTES = 64 << 20
_JPEG_QUALITY = 85
_REMEMBERED = 10_000
_OPEN_PER_STREAM = 4
_PER_FRAME = 3
_NAME = re.compile(r".+-\d{8}T\d{6}Z-\d+\.mp4")


class ClipsSink(Sink):
    """Writes one MP4 per event into a folder, as ``clip_name`` calls it; it is there when it is complete.

    pre_s, post_s: seconds before and after the event. max_clip_s: longest clip. max_bytes, max_clips: of all clips in
    the folder; of more, the oldest are removed (no other files are). At most 15 frames a second are kept.

    Memory: of each stream the JPEGs of ``pre_s`` and of the ten seconds that an event may be told late, 64 MiB at most,
    and as much again while a clip begins.
    Clips are H.264, which browsers play, where PyAV is installed, and MPEG-4 otherwise. Raises VlfError if the folder
    cannot be made.
    """

    every_frame = True

    def __init__(
        self,
        folder: str | Path,
        *,
        pre_s: float = 5.0,
        post_s: float = 5.0,
        max_clip_s: float = 60.0,
        max_bytes: int = 2_000_000_000,
        max_clips: int = 1000,
        now: Callable[[], float] = time.time,
    ):
        self.folder, self._pre_s, self._post_s, self._max_clip_s = Path(folder), pre_s, post_s, max_clip_s
        self._max_bytes, self._max_clips, self._now = max_bytes, max_clips, now
        self._cameras: dict[str, _Camera] = {}
        self._paths: OrderedDict[tuple[str, int], Path] = OrderedDict()
        self._lock = threading.Lock()
        self.health = Health(self.name, "clips")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VlfError(f"cannot make the folder {folder} for clips: {error.strerror}") from None
        self._make_writer = H264Writer if can_encode_h264() else _EvenWriter
        if self._make_writer is _EvenWriter:
            log.info("clips are MPEG-4, which browsers do not play; for H.264: pip install 'vlf_edge[camera]'")

    @property
    def name(self) -> str:
        return f"clips in {self.folder}"

    def clip_of(self, stream: str, event_id: int) -> Path | None:
        """Where the clip of an event of this run lies; None before it is complete, and when it was removed. Any thread
        may ask."""
        with self._lock:
            path = self._paths.get((stream, event_id))
        return path if path is not None and path.is_file() else None

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if frame is None:
            over = prediction.state == "ended"
            self._finish(self._cameras.get(prediction.stream), lambda clip: over or clip.until_s is not None)
            if over:
                self._cameras.pop(prediction.stream, None)
            return
        camera = self._cameras.setdefault(frame.stream, _Camera(self._pre_s + _LATE_S))
        if camera.breaks(frame):
            self._finish(camera, lambda clip: True)
            camera.clear()
        if not camera.add(frame):
            return
        over = lambda clip: frame.t_s > clip.end_s(self._max_clip_s)  # noqa: E731
        self._finish(camera, over)
        for clip in camera.clips.values():
            clip.add(*camera.ring[-1])
            clip.write(_PER_FRAME)

    def write_event(self, event: Event) -> None:
        camera = self._cameras.get(event.stream)
        if camera is None or not camera.ring:
            return
        clip = camera.clips.get(event.id)
        if clip is None and (event.stream, event.id) not in self._paths:
            clip = self._begin(camera, event)
        if clip is not None and event.t_end_s is not None:
            clip.until_s = event.t_end_s + self._post_s
            self._finish(camera, lambda clip: camera.ring[-1][0] > clip.end_s(self._max_clip_s))

    def close(self) -> None:
        for camera in self._cameras.values():
            self._finish(camera, lambda clip: True)

    def _begin(self, camera: _Camera, event: Event) -> _Clip:
        if len(camera.clips) >= _OPEN_PER_STREAM:
            self._finish(camera, lambda clip: clip is next(iter(camera.clips.values())))
        begun_s = self._now() - (time.monotonic() - camera.captured_s) - (camera.ring[-1][0] - event.t_start_s)
        from_s = event.t_start_s - self._pre_s
        path = self.folder / clip_name(event, begun_s)
        clip = camera.clips[event.id] = _Clip(path, from_s, self._make_writer(path))
        until_s = from_s + self._max_clip_s if event.t_end_s is None else event.t_end_s + self._post_s
        for t_s, jpeg in camera.ring:
            if from_s <= t_s <= min(until_s, from_s + self._max_clip_s):
                clip.add(t_s, jpeg)
        return clip

    def _finish(self, camera: _Camera | None, over: Callable[[_Clip], bool]) -> None:
        for number, clip in list(camera.clips.items()) if camera else ():
            if not over(clip):
                continue
            del camera.clips[number]
            stream = next(name for name, one in self._cameras.items() if one is camera)
            with self._lock:  # also of one that fails: its event's end does not begin it anew
                self._paths[stream, number] = clip.path
                while len(self._paths) > _REMEMBERED:
                    self._paths.popitem(last=False)
            try:
                clip.close()
                self._make_room()
            except (SourceError, OSError) as error:
                self.health.fails(error)
                self.health.gives_up()
            else:
                self.health.wrote()

    def _make_room(self) -> None:
        """Removes the oldest clips of too many; files that are no clips do not count."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        stat = entry.stat(follow_symlinks=False)
                        found.append((stat.st_mtime_ns, entry.path, stat.st_size))
        found.sort(reverse=True)
        total_bytes = 0
        for number, (_, path, size) in enumerate(found):
            total_bytes += size
            if number and (number >= self._max_clips or total_bytes > self._max_bytes):
                with suppress(FileNotFoundError):
                    os.unlink(path)


class _Camera:
    """What is kept of one stream. ring: (t_s, JPEG) of its newest frames. clips: those being written, by event."""

    def __init__(self, horizon_s: float):
        self._horizon_s, self._bytes = horizon_s, 0
        self.ring: deque[tuple[float, bytes]] = deque()
        self.clips: dict[int, _Clip] = {}
        self.captured_s = 0.0

    def breaks(self, frame: Frame) -> bool:
        """Whether the frame does not go on where the last one was."""
        return bool(self.ring) and (frame.begins or frame.t_s < self.ring[-1][0])

    def clear(self) -> None:
        self.ring.clear()
        self._bytes = 0

    def add(self, frame: Frame) -> bool:
        """Keeps a frame; False if it comes too soon after the one before."""
        if self.ring and frame.t_s - self.ring[-1][0] < _SLACK / _MAX_FPS:
            return False
        cv2 = load_cv2()
        encoded = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        self.ring.append((frame.t_s, encoded))
        self._bytes += len(encoded)
        self.captured_s = frame.captured_s
        while len(self.ring) > 1 and (frame.t_s - self.ring[0][0] > self._horizon_s or self._bytes > _RING_BYTES):
            self._bytes -= len(self.ring.popleft()[1])
        return True


class _Clip:
    """One video on its way. until_s: when it ends; None while the event goes on.

    It begins with many frames at once. They are written a few with every further one, so that no camera has to wait.
    """

    def __init__(self, path: Path, from_s: float, writer: Any):
        self.path, self._writer = path, writer
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.from_s, self.until_s = from_s, None
        self._first_s: float | None = None
        self._shape: tuple[int, ...] | None = None
        self._error: SourceError | None = None

    def end_s(self, longest_s: float) -> float:
        whole_s = self.from_s + longest_s
        return whole_s if self.until_s is None else min(self.until_s, whole_s)

    def add(self, t_s: float, jpeg: bytes) -> None:
        self._waiting.append((t_s, jpeg))

    def write(self, most: int) -> None:
        """Writes frames that were added. What fails is raised by ``close``: the other clips go on."""
        cv2 = load_cv2()
        for _ in range(min(most, len(self._waiting))):
            t_s, jpeg = self._waiting.popleft()
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if self._first_s is None:
                self._first_s, self._shape = t_s, image.shape
            if self._error is None and image.shape == self._shape:
                try:
                    self._writer.write(image, t_s - self._first_s)
                except SourceError as error:
                    self._error = error

    def close(self) -> None:
        self.write(len(self._waiting))
        if self._error is not None:
            self._writer.discard()
            raise self._error
        self._writer.close()


class _EvenWriter:
    """A VideoWriter, which knows no times, for frames that have them: at a fixed rate, and still where none came."""

    def __init__(self, path: Path):
        self._video, self._written = VideoWriter(path, _MAX_FPS), 0
        self._last: np.ndarray | None = None
        self.discard, self.close = self._video.discard, self._video.close

    def write(self, image: np.ndarray, t_s: float) -> None:
        due = round(t_s * _MAX_FPS)
        while self._last is not None and self._written < due:
            self._video.write(self._last)
            self._written += 1
        if self._written <= due:
            self._video.write(image)
            self._written += 1
        self._last = image


def clip_name(event: Event, begun_s: float) -> str:
    """STREAM-LABEL-TIME-ID.mp4: letters, digits, ``_``, ``.`` and ``-`` alone. begun_s: seconds since 1970."""
    at = datetime.fromtimestamp(begun_s, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return f"{_safe(event.stream)}-{_safe(event.label)}-{at}-{event.id}.mp4"


def _safe(text: str) -> str:
    """A part of a file name: short, neither hidden nor an option."""
    words = re.sub(r"[^\w.]+", "_", unicodedata.normalize("NFC", text))
    return words.encode(errors="ignore")[:60].decode(errors="ignore").strip("._") or "_"


@dataclass(frozen=True)
class ClipOptions:
    """What the command line says of it."""

    save_clips: str | None = option(None, "write a video of each event into this folder", "FOLDER")
    clip_before: float = option(5.0, "seconds before the event (default: 5)", "S", least=0, most=60)
    clip_after: float = option(5.0, "seconds after it (default: 5)", "S", least=0, most=60)
    clip_longest: float = option(60.0, "seconds of a clip, at most (default: 60)", "S", above=0, most=3600)
    clips_gb: float = option(2.0, "size of all clips; of more the oldest are removed (default: 2)", "GB", above=0)


def open_clips(options: ClipOptions, run: Run) -> Iterator[Sink]:
    check_options(options)
    if options.save_clips is not None:
        run.need_events("--save-clips")
        yield ClipsSink(
            options.save_clips,
            pre_s=options.clip_before,
            post_s=options.clip_after,
            max_clip_s=options.clip_longest,
            max_bytes=round(options.clips_gb * 1e9),
        )
