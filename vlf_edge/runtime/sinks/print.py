"""Decisions as text, for people."""

from __future__ import annotations

from typing import TextIO

from ...types import Frame, Prediction
from .sink import Sink
from .text import describe


class PrintSink(Sink):
    """One line per prediction, for people."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            print(describe(prediction), file=self._stream, flush=True)
