"""From what the user wrote to a source. Files give every frame, cameras the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import SourceError, VlfError
from ...options import check_options
from .camera import find_camera
from .csi import find_csi
from .gstreamer import find_gstreamer
from .http import find_http
from .images import IterableSource
from .motion import find_motion
from .options import SourceOptions
from .paths import find_path
from .rtsp import find_rtsp
from .source import KINDS, Address, Source
from .url import hidden, is_pipeline
from .wrappers import Flipped, Looped, Paced, Thinned

# One row for each kind of source: how its names begin, and the file that knows it. What has no such beginning is
# a number, a device, a pipeline or a path: see _scheme.
SCHEMES: dict[str, Callable[[str, SourceOptions], Address]] = {
    "v4l2": find_camera,
    "csi": find_csi,
    "gst": find_gstreamer,
    "rtsp": find_rtsp,
    "rtsps": find_rtsp,
    "http": find_http,
    "https": find_http,
    "file": find_path,
    "test": find_motion,
}


def open_source(what: Any, options: SourceOptions | None = None, *, fps: float | None = None) -> Source:
    """Opens whatever the user named: ``find_source`` and ``Address.open``.

    Raises SourceError, CameraError, and BackendMissing where the library for it is not installed.
    """
    return find_source(what, options, fps=fps).open()


def find_source(what: Any, options: SourceOptions | None = None, *, fps: float | None = None) -> Address:
    """Where the frames are that the user named; nothing is opened yet.

    what: a camera number, "/dev/videoN" or "v4l2://..."; "csi://N"; a GStreamer pipeline; "rtsp://", "rtsps://",
    "http://" or "https://" and an address; a video file; a folder of videos or of images; a glob; a numbered pattern
    such as "frames_%04d.jpg"; "file://" and a path; "test://motion"; an iterable of images or of (image, t_s); a Source
    or an Address.
    options: what is asked of it, and how its frames are changed. fps: ``options.fps``, for short.
    Raises SourceError for what can be no source, VlfError for options out of their limits.
    """
    options = options or SourceOptions()
    if fps is not None:
        options = replace(options, fps=fps)
    check_options(options)
    if options.loop == 0:
        raise VlfError("--loop is 0; expected how often to play, or -1 for ever")
    return _changed(_find(what, options), options)


def _find(what: Any, options: SourceOptions) -> Address:
    if isinstance(what, Address):
        return what
    if isinstance(what, Source):
        return Address(what.name, what.live, lambda: what)
    if isinstance(what, int) and what >= 0:
        return find_camera(str(int(what)), options)
    if isinstance(what, (str, Path)):
        name = str(what)
        scheme = _scheme(name)
        if scheme not in SCHEMES:
            raise SourceError(f"{hidden(name)}: {scheme}:// is no source; a source is {KINDS}")
        return SCHEMES[scheme](name, options)
    if isinstance(what, Iterable):
        return Address(type(what).__name__, False, lambda: IterableSource(what, options.fps))
    raise SourceError(f"cannot read frames from {type(what).__name__}; a source is {KINDS}, or an iterable of images")


def _scheme(name: str) -> str:
    if name.isascii() and name.isdigit() or name.startswith("/dev/video"):
        return "v4l2"
    if is_pipeline(name):
        return "gst"
    scheme, mark, _ = name.partition("://")
    return scheme.lower() if mark and scheme.isalnum() else "file"


def _changed(address: Address, options: SourceOptions) -> Address:
    """The same with its frames turned, repeated, paced and thinned out as the options say."""
    again = options.loop != 1 and not address.live
    paced = options.realtime and not address.live
    if again and not address.again:
        raise SourceError(f"--loop plays a source again, and {address.name} can be read but once")
    if not again and not paced and options.flip == "none" and options.max_fps is None:
        return address

    def open_changed() -> Source:
        source = Looped(address.open, options.loop) if again else address.open()
        source = Paced(source) if paced else source
        source = source if options.max_fps is None else Thinned(source, options.max_fps)
        return source if options.flip == "none" else Flipped(source, options.flip)

    # A file that is played as a camera ends as a file does.
    return Address(address.name, address.live or paced, open_changed, address.again and not paced)
