"""The frames of a clip that stand for all of it."""

from __future__ import annotations

import numpy as np

from ..errors import SourceError
from .sampler import segment_centres
from .sources import open_source


def read_middles(clip: str, frames: int) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
    """The middle frame of each of ``frames`` equal segments: images (H, W, 3) uint8 BGR, and their times in seconds.

    The clip is read twice, and never held in memory. Raises SourceError.
    """
    with open_source(clip) as source:
        if source.live:
            raise SourceError(
                f"{source.name} is a camera and never ends: classify takes files; for cameras use stream()"
            )
        count = sum(1 for _ in source)
    if count == 0:
        raise SourceError(f"{source.name} holds no frames to classify")
    wanted = set(segment_centres(count, frames))
    with open_source(clip) as source:
        kept = [(frame.image, frame.t_s) for frame in source if frame.seq in wanted]
    images, times_s = zip(*kept)
    return images, times_s
