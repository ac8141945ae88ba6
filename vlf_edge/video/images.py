"""Image files, read whole or refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..atomic import open_regular
from ..errors import SourceError
from ..opencv import load_cv2

_START, _START_OF_SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"  # markers of JPEG


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR. Raises SourceError for what is no image, is cut off, or is larger than OpenCV takes."""
    cv2 = load_cv2()
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    if data.startswith(_START) and _lacks_its_end(data):
        raise SourceError(f"{path} is cut off: it holds {len(data)} bytes and no end of the image; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except (cv2.error, MemoryError) as error:
        raise SourceError(f"OpenCV cannot decode the image {path}: {_reason(error)}") from None
    if image is None:
        raise SourceError(f"{path} is not an image that OpenCV can decode, or is cut off")
    return image


def _lacks_its_end(jpeg: bytes) -> bool:
    """OpenCV takes a JPEG that ends early for a whole one, and paints the rest grey."""
    at = len(_START)
    # From segment to segment, since a thumbnail within one has an end of its own.
    while jpeg[at : at + 1] == b"\xff" and jpeg[at : at + 2] != _START_OF_SCAN:
        padding = jpeg[at + 1 : at + 2] == b"\xff"
        at += 1 if padding else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg.find(_END, at) < 0


def _reason(error: Exception) -> str:
    """The heart of OpenCV's message, which begins with its version and the place in its source."""
    text = " ".join((str(error) or type(error).__name__).split())
    if "CV_IO_MAX_IMAGE" in text:
        return "it has more pixels than OpenCV takes (2^30, and 2^20 a side, by default); make it smaller"
    return text.rpartition("error: ")[2]
