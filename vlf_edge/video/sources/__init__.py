"""Where frames come from: a file for each kind of source; ``open_source`` chooses by what the user wrote.

Files give every frame, stamped with the time inside the file. Cameras give the newest, stamped with the monotonic
clock. Both are read the same way: ``for frame in source``.
"""

from .camera import CameraSource
from .image_files import IMAGE_SUFFIXES, ImageFilesSource
from .images import IterableSource
from .motion import MotionSource
from .opening import expand_clips, find_source, open_source
from .source import DEFAULT_FPS, KINDS, Address, Source
from .video_file import VIDEO_SUFFIXES, PlaylistSource, VideoFileSource

__all__ = [
    "Address",
    "CameraSource",
    "DEFAULT_FPS",
    "IMAGE_SUFFIXES",
    "ImageFilesSource",
    "IterableSource",
    "KINDS",
    "MotionSource",
    "PlaylistSource",
    "Source",
    "VIDEO_SUFFIXES",
    "VideoFileSource",
    "expand_clips",
    "find_source",
    "open_source",
]
