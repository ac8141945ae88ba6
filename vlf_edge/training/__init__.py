"""Training: clips and labels -> weights. Needs PyTorch, but for ``Settings``."""

from ..lazy import lazy

_HOME = {"Outcome": "trainer", "Settings": "settings", "train": "train"}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
