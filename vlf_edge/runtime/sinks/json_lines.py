"""Decisions and events as JSON Lines, for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from ...types import Event, Frame, Prediction
from .rotating_file import RotatingFile
from .sink import Sink
from .text import event_to_json, to_json


class JsonLinesSink(Sink):
    """One JSON object per line: a prediction as ``to_json`` has it, an event as {"event": ``event_to_json``}."""

    name = "stdout"

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            self._line(to_json(prediction))

    def write_event(self, event: Event) -> None:
        self._line({"event": event_to_json(event)})

    def _line(self, value: dict) -> None:
        print(json.dumps(value), file=self._stream, flush=True)


class JsonLinesFileSink(Sink):
    """The lines of a JsonLinesSink at the end of a file that rotates (class RotatingFile).

    decisions False: events alone. Raises VlfError if the file cannot be written to.
    """

    def __init__(self, path: str | Path, *, decisions: bool = True, max_bytes: int = 100_000_000, keep: int = 5):
        self._decisions = decisions
        self._file = RotatingFile(Path(path), max_bytes=max_bytes, keep=keep)

    @property
    def name(self) -> str:
        return str(self._file.path)

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if self._decisions and prediction is not None:
            self._line(to_json(prediction))

    def write_event(self, event: Event) -> None:
        self._line({"event": event_to_json(event)})

    def close(self) -> None:
        self._file.close()

    def _line(self, value: dict) -> None:
        self._file.write_line(json.dumps(value).encode())
