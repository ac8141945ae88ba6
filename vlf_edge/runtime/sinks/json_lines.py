"""Decisions as JSON Lines, for programs."""

from __future__ import annotations

import json
from typing import TextIO

from ...types import Frame, Prediction
from .sink import Sink
from .text import to_json


class JsonLinesSink(Sink):
    """One JSON object per prediction and line, for programs: see ``to_json``."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            print(json.dumps(to_json(prediction)), file=self._stream, flush=True)
