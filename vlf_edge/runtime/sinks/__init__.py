"""Where decisions go: a file for each kind of sink. Names are imported when first used."""

from ...lazy import lazy

_HOME = {
    "ClipsSink": "clips",
    "CsvEventsSink": "csv_file",
    "Health": "health",
    "JsonLinesFileSink": "json_lines",
    "JsonLinesSink": "json_lines",
    "MqttSink": "mqtt",
    "PrintSink": "print",
    "RANDOM_WEIGHTS_NOTE": "text",
    "Run": "sink",
    "Sink": "sink",
    "ThreadedSink": "threaded",
    "VideoSink": "video",
    "VideoWriter": "video",
    "WebhookSink": "webhook",
    "WindowSink": "window",
    "add_sink_arguments": "table",
    "annotate": "annotation",
    "describe": "text",
    "describe_event": "text",
    "event_to_json": "text",
    "open_sinks": "table",
    "to_json": "text",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
