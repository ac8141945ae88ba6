"""Weights or a plan -> a plan: export, calibrate, quantise, measure, compile."""

from importlib import import_module

_HOME = {"Recipe": "recipe", "build": "builder", "load_recipe": "recipe"}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'vlf_edge.compiler' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
