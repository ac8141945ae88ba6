"""Training: clips and labels -> weights. Needs PyTorch, but for ``Settings``."""

from typing import Any

from ..lazy import lazy
from ..software import require_packages

_HOME = {"Outcome": "trainer", "Settings": "settings", "TrainingSettings": "settings", "train": "train"}

__all__ = sorted(_HOME)
_find = lazy(__name__, _HOME)


def __getattr__(name: str) -> Any:
    if name in ("Outcome", "train"):
        require_packages("models", "training", ("torch", "timm", "safetensors"))
    return _find(name)
