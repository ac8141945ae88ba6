"""Videos as cameras and phones write them, for tests of all that reads footage: rendered, then really encoded."""

from __future__ import annotations

from pathlib import Path

import cv2

from vlf_edge.video.motion_pattern import MotionOptions, MotionPattern

# Two codecs that keep differences between frames and two containers; sides that are no multiple of the codec's blocks;
# a rate that is no whole number.
_VIDEOS = (
    ("portrait.mp4", "mp4v", MotionOptions(seconds=8, fps=28, width=134, height=170, seed=1)),
    ("street.mp4", "mp4v", MotionOptions(seconds=10, fps=29.97, width=214, height=120, seed=2)),
    ("webcam.avi", "XVID", MotionOptions(seconds=7, fps=25, width=160, height=120, seed=3)),
)


def write_videos(folder: Path) -> list[Path]:
    """Things and views that move, with a cut every four seconds: about 700 frames in three files, in two seconds."""
    paths = []
    for name, codec, options in _VIDEOS:
        paths.append(folder / name)
        size = (options.width, options.height)
        writer = cv2.VideoWriter(str(paths[-1]), cv2.VideoWriter_fourcc(*codec), options.fps, size)
        assert writer.isOpened(), f"OpenCV {cv2.__version__} cannot write {codec}"
        pattern = MotionPattern(options)
        for i in range(pattern.count):
            writer.write(pattern.render(i / options.fps))
        writer.release()
    return paths
