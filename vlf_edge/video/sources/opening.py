"""From what the user wrote to a source. Files give every frame, cameras the newest."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...errors import SourceError
from .camera import CameraSource
from .image_files import IMAGE_SUFFIXES, ImageFilesSource
from .images import IterableSource
from .motion import MotionSource
from .source import KINDS, Address, Source
from .video_file import VIDEO_SUFFIXES, PlaylistSource, VideoFileSource


def open_source(what: Any, *, fps: float | None = None) -> Source:
    """Opens whatever the user named: ``find_source`` and ``Address.open``. Raises SourceError, CameraError."""
    return find_source(what, fps=fps).open()


def find_source(what: Any, *, fps: float | None = None) -> Address:
    """Where the frames are that the user named; nothing is opened yet.

    what: a camera number or "/dev/videoN"; a video file; a folder of videos or of images; a glob; a numbered pattern
    such as "frames_%04d.jpg"; "test://motion"; an iterable of images or of (image, t_s); or a Source or an
    Address, given as is.
    fps: of image files and of iterables without times (default 30). Raises SourceError for what can be no source.
    """
    if fps is not None and not 0 < fps < 1e4:
        raise SourceError(f"fps is {fps}; expected frames a second, above 0")
    if isinstance(what, Address):
        return what
    if isinstance(what, Source):
        return Address(what.name, what.live, lambda: what)
    if isinstance(what, int):
        return Address(f"/dev/video{what}", True, lambda: CameraSource(what), again=True)
    if isinstance(what, (str, Path)):
        return _find_named(str(what), fps)
    if isinstance(what, Iterable):
        return Address(type(what).__name__, False, lambda: IterableSource(what, fps))
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


def _find_named(name: str, fps: float | None) -> Address:
    if name.isascii() and name.isdigit():
        return find_source(int(name))
    if name.startswith("/dev/video"):
        return Address(name, True, lambda: CameraSource(name), again=True)
    if name.startswith("test://"):
        return Address(name, False, lambda: MotionSource(name))
    if "://" in name:
        scheme = name.split("://")[0]
        raise SourceError(f"{scheme}:// sources are not supported by this version; a source is {KINDS}")
    return Address(name, False, lambda: _open_path(name, fps))


def _open_path(name: str, fps: float | None) -> Source:
    try:
        return _open_named_files(name, fps)
    except OSError as error:
        raise SourceError(f"cannot read {name}: {error.strerror}") from None


def _open_named_files(name: str, fps: float | None) -> Source:
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
