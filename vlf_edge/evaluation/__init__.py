"""A plan and labelled clips -> how often it is right, how sure it is, how fast, and how far from a reference.

Metrics are NumPy alone. Only ``reference.py`` may load torch, and only when weights are what a plan is compared with.
"""

from importlib import import_module

_HOME = {
    "Scores": "scores",
    "draw_confusion": "picture",
    "evaluate": "evaluator",
    "save_picture": "picture",
    "score": "scores",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'vlf_edge.evaluation' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
