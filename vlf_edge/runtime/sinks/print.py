"""Decisions and events as text, for people."""

from __future__ import annotations

from typing import TextIO

from ...types import Event, Frame, Prediction
from .sink import Sink
from .text import describe, describe_event


class PrintSink(Sink):
    """One line per prediction and two per event, for people."""

    name = "stdout"

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            print(describe(prediction), file=self._stream, flush=True)

    def write_event(self, event: Event) -> None:
        print(describe_event(event), file=self._stream, flush=True)
