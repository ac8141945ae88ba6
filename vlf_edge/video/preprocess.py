"""Camera image -> the pixels the frame stage takes. The only preprocessing there is: live, calibration and training
all call this. Colour order, mean and std are inside the ONNX graph."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ShapeError
from ..opencv import load_cv2
from ..types import Preprocess


class Preprocessor:
    """Resize so that the short side is ``short_side_px``, cut the centre.

    The cut is made first and only what is left is resized: the same pixels for less work. Shrinking averages blocks of
    2x2 pixels as often as they fit, which does not alias and which OpenCV does in vector instructions, and leaves less
    than a factor of two to the linear filter: several times faster than averaging over fractions of pixels.
    """

    def __init__(self, spec: Preprocess):
        if spec.short_side_px < max(spec.height_px, spec.width_px):
            raise ShapeError(
                f"short side {spec.short_side_px} px is smaller than the {spec.height_px}x{spec.width_px} px to cut "
                "from it"
            )
        self.spec = spec
        self._cv2 = load_cv2()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 of any size -> (height_px, width_px, 3) uint8, same colour order, contiguous."""
        check_image(image)
        spec, cv2 = self.spec, self._cv2
        scale = min(image.shape[:2]) / spec.short_side_px
        cut = _centre(image, round(spec.height_px * scale), round(spec.width_px * scale))
        halvings = int(math.log2(scale)) if scale >= 2 else 0
        cut = _centre(cut, *(side >> halvings << halvings for side in cut.shape[:2]))
        for _ in range(halvings):
            cut = cv2.resize(cut, (cut.shape[1] // 2, cut.shape[0] // 2), interpolation=cv2.INTER_AREA)
        if cut.shape[:2] == (spec.height_px, spec.width_px):
            return np.ascontiguousarray(cut)
        return cv2.resize(cut, (spec.width_px, spec.height_px), interpolation=cv2.INTER_LINEAR)


def check_image(image: np.ndarray) -> None:
    """Raises ShapeError unless ``image`` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ShapeError(f"an image must be a NumPy array (H, W, 3) uint8, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError(f"an image must be (H, W, 3) uint8 in BGR order, got {image.shape} {image.dtype}")


def _centre(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    height_px, width_px = max(1, min(height_px, image.shape[0])), max(1, min(width_px, image.shape[1]))
    top, left = (image.shape[0] - height_px) // 2, (image.shape[1] - width_px) // 2
    return image[top : top + height_px, left : left + width_px]
