"""Weights or a plan -> a plan: export, calibrate, quantise, measure, compile."""

from ..lazy import lazy

_HOME = {"Recipe": "recipe", "build": "builder", "load_recipe": "recipe"}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
