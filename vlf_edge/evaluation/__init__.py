"""A plan and labelled clips -> how often it is right, how sure it is, how fast, and how far from a reference.

Metrics are NumPy alone. Only ``reference.py`` may load torch, and only when weights are what a plan is compared with.
"""

from ..lazy import lazy

_HOME = {
    "Scores": "scores",
    "draw_confusion": "picture",
    "evaluate": "evaluator",
    "save_picture": "picture",
    "score": "scores",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
