"""Files by name: one, a folder of them, a glob, a numbered pattern, file://."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from ...errors import SourceError
from .image_files import IMAGE_SUFFIXES, ImageFilesSource
from .options import SourceOptions
from .source import KINDS, Address, Source
from .url import hidden
from .video_file import VIDEO_SUFFIXES, PlaylistSource, VideoFileSource


def find_path(text: str, options: SourceOptions) -> Address:
    """A path as it is, or file:// and one that is percent-encoded. Whether it is there is seen when it is opened."""
    name = text
    if text.startswith("file://"):
        host, slash, path = text.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise SourceError(f"{text} is no file of this machine; expected file:///path")
        name = f"/{unquote(path)}"
    return Address(hidden(name), False, lambda: _open_path(name, options.fps), again=True)


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


def _open_path(name: str, fps: float | None) -> Source:
    try:
        return _open_named_files(name, fps)
    except OSError as error:
        raise SourceError(f"cannot read {hidden(name)}: {error.strerror}") from None
    except ValueError as error:  # a zero byte in the name
        raise SourceError(f"cannot read {hidden(name)}: {error}") from None


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
    raise SourceError(f"no file, folder or camera at {hidden(name)}; a source is {KINDS}")


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
