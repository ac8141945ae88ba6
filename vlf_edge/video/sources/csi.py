"""Cameras at the CSI connector of a Jetson, through NVIDIA's capture for GStreamer."""

from __future__ import annotations

import re

from ...errors import SourceError
from .gstreamer import GStreamerSource
from .options import SourceOptions
from .source import Address

_WIDTH_PX, _HEIGHT_PX, _FPS = 1280, 720, 30.0


def csi_pipeline(sensor: int, options: SourceOptions) -> str:
    """From the sensor through the image processor to BGR: these cameras give raw Bayer at /dev/videoN."""
    width, height = options.width_px or _WIDTH_PX, options.height_px or _HEIGHT_PX
    rate = round((options.fps or _FPS) * 1000)
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={rate}/1000 ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink max-buffers=1 drop=true sync=false"
    )


def find_csi(text: str, options: SourceOptions) -> Address:
    """csi://N, the sensor's number. Raises SourceError for anything else."""
    found = re.fullmatch(r"csi://(\d{1,2})/?", text, re.A)
    if found is None:
        raise SourceError(f"{text} is no CSI camera; expected csi:// and the sensor's number, such as csi://0")
    name = f"csi://{int(found[1])}"
    pipeline = csi_pipeline(int(found[1]), options)
    return Address(name, True, lambda: GStreamerSource(pipeline, name), again=True)
