"""plan -> predictions, with NumPy, OpenCV and one backend; never torch, never onnx."""

from ..lazy import lazy

_HOME = {
    "JsonLinesSink": "sinks",
    "Pipeline": "pipeline",
    "PrintSink": "sinks",
    "Recognizer": "recognizer",
    "Runtime": "runtime",
    "Sink": "sinks",
    "ThreadedSink": "sinks",
    "VideoSink": "sinks",
    "VideoWriter": "sinks",
    "to_json": "sinks",
    "annotate": "sinks",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
