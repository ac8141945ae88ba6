"""What users may ask of a source."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...options import option

FLIPS = ("none", "horizontal", "vertical", "rotate90", "rotate180", "rotate270")


@dataclass(frozen=True)
class SourceOptions:
    """Each is obeyed by the sources that it is about and means nothing to the others: of files and cameras that run
    together, --loop is for the files."""

    fps: float | None = option(
        None, "of image files (default: 30), and asked of a camera", "HZ", above=0, most=10_000
    )  # fmt: skip
    width_px: int | None = option(None, "asked of a camera", "PX", flags=("--width",), least=1, most=16_384)
    height_px: int | None = option(None, "asked of a camera", "PX", flags=("--height",), least=1, most=16_384)
    format: str | None = option(None, "asked of a V4L2 camera: MJPG, YUYV, ...", "FOURCC")
    flip: str = option("none", "how to mirror or turn every frame, clockwise (default: none)", choices=FLIPS)
    loop: int = option(1, "how often to play files, -1 for ever (default: 1)", "N", least=-1)
    realtime: bool = option(False, "play files at their own pace and as cameras: the newest frame counts")
    max_fps: float | None = option(None, "leave out frames above this rate", "HZ", above=0, most=10_000)
    stamps: str = option(
        "own", "when a network camera's frames were taken: by its own clock, or when they arrive (default: own)",
        choices=("own", "arrival"),
    )  # fmt: skip
    open_timeout_s: float = option(
        10.0, "how long a network camera may take to answer (default: 10)", "S", flags=("--open-timeout",), above=0,
        most=3600,
    )  # fmt: skip
    read_timeout_s: float = option(
        5.0, "how long a network camera may take to the next frame (default: 5)", "S", flags=("--read-timeout",),
        above=0, most=3600,
    )  # fmt: skip


SOURCE_FLAGS = tuple(f.name for f in fields(SourceOptions))
