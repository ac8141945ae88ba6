"""Streaming video action recognition with VideoLightFormer on NVIDIA edge hardware.

>>> from vlf_edge import Runtime
>>> with Runtime("vlf.plan") as runtime:
...     for prediction in runtime.stream(0):
...         print(prediction.state, prediction.label, prediction.score)

Names are resolved when first used, so importing vlf_edge costs almost nothing and never loads torch, onnx or cv2.
"""

from . import telemetry
from ._version import __version__ as __version__
from .lazy import lazy

telemetry.switch_off()

_HOME = {
    "Event": "types",
    "EventDetector": "runtime",
    "EventSettings": "runtime",
    "Frame": "types",
    "ClipsSink": "runtime",
    "CsvEventsSink": "runtime",
    "JsonLinesFileSink": "runtime",
    "JsonLinesSink": "runtime",
    "Limits": "runtime",
    "MqttSink": "runtime",
    "Manifest": "manifest",
    "Plan": "plan",
    "ModelError": "errors",
    "Prediction": "types",
    "Preprocess": "types",
    "PrintSink": "runtime",
    "Runtime": "runtime",
    "Sampling": "types",
    "Sink": "runtime",
    "Source": "video",
    "SourceOptions": "video",
    "TensorSpec": "types",
    "ThreadedSink": "runtime",
    "VideoSink": "runtime",
    "VideoWriter": "runtime",
    "WebhookSink": "runtime",
    "WindowSink": "runtime",
    "event_to_json": "runtime",
    "annotate": "runtime",
    "BackendMissing": "errors",
    "Camera": "runtime",
    "CalibrationError": "errors",
    "CameraError": "errors",
    "CompileError": "errors",
    "ExportError": "errors",
    "PlanError": "errors",
    "PlanMismatch": "errors",
    "ShapeError": "errors",
    "SourceError": "errors",
    "VlfError": "errors",
    "WeightsError": "errors",
    "WrongAnswers": "errors",
    "Recipe": "compiler",
    "TrainingSettings": "training",
    "build": "compiler",
    "enrol": "enrolment",
    "evaluate": "evaluation",
    "find_source": "video",
    "load_recipe": "compiler",
    "open_source": "video",
    "to_json": "runtime",
    "train": "training",
}

__all__ = sorted([*_HOME, "__version__"])
__getattr__ = lazy(__name__, _HOME)


def __dir__():
    return __all__
