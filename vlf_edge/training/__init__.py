"""Training: clips and labels -> weights. Needs PyTorch."""

from __future__ import annotations

from .settings import Settings
from .train import train
from .trainer import Outcome

__all__ = ["Outcome", "Settings", "train"]
