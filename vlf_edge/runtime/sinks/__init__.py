"""Where decisions go: a file for each kind of sink. Names are imported when first used."""

from ...lazy import lazy

_HOME = {
    "JsonLinesSink": "json_lines",
    "PrintSink": "print",
    "RANDOM_WEIGHTS_NOTE": "text",
    "Sink": "sink",
    "ThreadedSink": "threaded",
    "VideoSink": "video",
    "VideoWriter": "video",
    "annotate": "annotation",
    "describe": "text",
    "to_json": "text",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
