"""plan -> predictions, with NumPy, OpenCV and one backend; never torch, never onnx."""

from ..lazy import lazy

_HOME = {
    "Camera": "camera",
    "ClipsSink": "sinks",
    "CsvEventsSink": "sinks",
    "JsonLinesFileSink": "sinks",
    "EventDetector": "events",
    "EventSettings": "event_settings",
    "JsonLinesSink": "sinks",
    "Limits": "limits",
    "MqttSink": "sinks",
    "Pipeline": "pipeline",
    "PrintSink": "sinks",
    "Recognizer": "recognizer",
    "Runtime": "runtime",
    "Sink": "sinks",
    "ThreadedSink": "sinks",
    "VideoSink": "sinks",
    "VideoWriter": "sinks",
    "WebhookSink": "sinks",
    "WindowSink": "sinks",
    "event_to_json": "sinks",
    "to_json": "sinks",
    "annotate": "sinks",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
