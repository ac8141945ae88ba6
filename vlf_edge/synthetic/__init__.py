"""Rendered motion: clips made from a seed, whose classes lie in time. NumPy and OpenCV are all it needs."""

from .act import ACTS, ActClip
from .clip import CLASSES, HELD_OUT_SEED, MIRRORS, REVERSES, SHIFTS, USUAL, MotionClip

__all__ = ["ACTS", "CLASSES", "HELD_OUT_SEED", "MIRRORS", "REVERSES", "SHIFTS", "USUAL", "ActClip", "MotionClip"]
