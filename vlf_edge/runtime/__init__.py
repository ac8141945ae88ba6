"""plan -> predictions, with NumPy, OpenCV and one backend; never torch, never onnx."""

from ..lazy import lazy

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
__getattr__ = lazy(__name__, _HOME)
