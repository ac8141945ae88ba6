"""What a V4L2 camera can give, asked by ioctl: no package is needed. The numbers are those of linux/videodev2.h."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

_QUERYCAP, _ENUM_FMT, _ENUM_SIZES, _ENUM_INTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
_CAPABILITY = struct.Struct("16s32s32s3I3I")
_FORMAT = struct.Struct("3I32s2I3I")  # index, type, flags, description, pixel format, bus code, reserved
_SIZE = struct.Struct("3I6I2I")  # index, pixel format, kind, up to six sizes, reserved
_INTERVAL = struct.Struct("5I6I2I")  # index, pixel format, width, height, kind, up to three fractions, reserved
_CAPTURE, _DEVICE_CAPS, _DISCRETE, _VIDEO_CAPTURE = 0x1, 1 << 31, 1, 1
_MOST = 64  # entries of a list

Ioctl = Callable[[int, int, bytearray, bool], Any]


def describe(path: str, ioctl: Ioctl = fcntl.ioctl) -> dict[str, Any]:
    """{"card": its name, "captures": whether it gives images, "formats": [{"fourcc", "sizes": [[w, h, fps], ...]}]}.

    Raises OSError if it cannot be opened or is no camera.
    """
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        raw = bytearray(_CAPABILITY.size)
        ioctl(handle, _QUERYCAP, raw, True)
        _, card, _, _, capabilities, device, *_ = _CAPABILITY.unpack(raw)
        captures = bool((device if capabilities & _DEVICE_CAPS else capabilities) & _CAPTURE)
        formats = [_format(handle, fourcc, ioctl) for fourcc in _formats(handle, ioctl)] if captures else []
    finally:
        os.close(handle)
    return {"card": card.split(b"\0")[0].decode(errors="replace"), "captures": captures, "formats": formats}


def _formats(handle: int, ioctl: Ioctl) -> Iterator[int]:
    for values in _each(handle, _ENUM_FMT, _FORMAT, ioctl, lambda i: (i, _VIDEO_CAPTURE, 0, b"", *[0] * 5)):
        yield values[4]


def _format(handle: int, fourcc: int, ioctl: Ioctl) -> dict[str, Any]:
    sizes = []
    for _, _, kind, width, height, *_ in _each(handle, _ENUM_SIZES, _SIZE, ioctl, lambda i: (i, fourcc, *[0] * 9)):
        if kind == _DISCRETE:
            sizes.append([width, height, _fps(handle, fourcc, width, height, ioctl)])
    return {"fourcc": fourcc.to_bytes(4, "little").decode("ascii", "replace"), "sizes": sizes}


def _fps(handle: int, fourcc: int, width: int, height: int, ioctl: Ioctl) -> float:
    """The highest frame rate at this size; 0 if it is not told."""
    found = _each(handle, _ENUM_INTERVALS, _INTERVAL, ioctl, lambda i: (i, fourcc, width, height, *[0] * 9))
    rates = [values[6] / values[5] for values in found if values[4] == _DISCRETE and values[5]]
    return round(max(rates, default=0.0), 2)


def _each(
    handle: int, request: int, layout: struct.Struct, ioctl: Ioctl, asked: Callable[[int], tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    """The entries of a list that the driver keeps, until it says that there is no further one."""
    for index in range(_MOST):
        raw = bytearray(layout.pack(*asked(index)))
        try:
            ioctl(handle, request, raw, True)
        except OSError:
            return
        yield layout.unpack(raw)
