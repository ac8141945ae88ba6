"""Where frames come from: a file for each kind of source; ``open_source`` chooses by what the user wrote.

Files give every frame, stamped with the time inside the file. Cameras give the newest, stamped with the monotonic
clock or with their own. Both are read the same way: ``for frame in source``.
"""

from .camera import CameraSource
from .gstreamer import GStreamerSource
from .image_files import IMAGE_SUFFIXES, ImageFilesSource
from .images import IterableSource
from .motion import MotionSource
from .network import NetworkSource
from .opening import SCHEMES, find_source, open_source
from .options import SOURCE_FLAGS, SourceOptions
from .paths import expand_clips
from .source import DEFAULT_FPS, KINDS, Address, Source
from .url import hidden, last_part
from .video_file import VIDEO_SUFFIXES, PlaylistSource, VideoFileSource

__all__ = [
    "Address",
    "CameraSource",
    "DEFAULT_FPS",
    "GStreamerSource",
    "IMAGE_SUFFIXES",
    "ImageFilesSource",
    "IterableSource",
    "KINDS",
    "MotionSource",
    "NetworkSource",
    "PlaylistSource",
    "SCHEMES",
    "SOURCE_FLAGS",
    "Source",
    "SourceOptions",
    "VIDEO_SUFFIXES",
    "VideoFileSource",
    "expand_clips",
    "find_source",
    "hidden",
    "last_part",
    "open_source",
]
