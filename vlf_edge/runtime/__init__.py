"""plan -> predictions, with NumPy, OpenCV and one backend; never torch, never onnx."""

from importlib import import_module

_HOME = {
    "JsonLinesSink": "sinks",
    "Pipeline": "pipeline",
    "PrintSink": "sinks",
    "Recognizer": "recognizer",
    "Runtime": "runtime",
    "Source": "sources",
    "VideoSink": "sinks",
    "annotate": "sinks",
    "open_engines": "selection",
    "open_source": "sources",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'vlf_edge.runtime' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
