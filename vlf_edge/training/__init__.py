"""Training: clips and labels -> weights. Needs PyTorch."""

from __future__ import annotations

from .run import Outcome
from .settings import Settings
from .train import train

__all__ = ["Outcome", "Settings", "train"]
