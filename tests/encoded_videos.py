"""Videos as phones and screen recorders write them, encoded through PyAV; their frames show numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# The matrix of an MP4's track that turns its picture by 90 degrees clockwise, in big-endian 16.16 numbers.
_UPRIGHT = b"".join(n.to_bytes(4, "big", signed=True) for n in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
_TURNED = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """(height, width, 3) uint8 that ``rtsp_server.frame_number`` reads."""
    bits = np.array([number >> (15 - i) & 1 for i in range(16)], np.uint8).reshape(4, 4)
    return np.repeat(np.repeat(bits * 219 + 16, height // 4, 0), width // 4, 1)[..., None].repeat(3, 2)


def write_numbers(
    path: Path,
    times_s: Sequence[float],
    *,
    codec: str = "libx264",
    turned: bool = False,
    rate: int = 30,
    first: int = 0,
) -> Path:
    """A video with a frame at each of these times, in milliseconds; rate: what its header claims."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, t_s in enumerate(times_s, first):
            frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24")
            frame.pts, frame.time_base = round(t_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turned:
        data = path.read_bytes()
        assert data.count(_UPRIGHT) >= 1
        at = data.index(_UPRIGHT, data.index(b"tkhd"))
        path.write_bytes(data[:at] + _TURNED + data[at + len(_TURNED) :])
    return path
