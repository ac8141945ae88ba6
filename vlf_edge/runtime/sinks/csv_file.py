"""Events as rows of a CSV file, for spreadsheets."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ...printable import printable
from ...types import Event, Frame, Prediction
from .rotating_file import RotatingFile
from .sink import Sink
from .text import event_to_json

_COLUMNS = ("at", "stream", "label", "t_start_s", "t_end_s", "duration_s", "peak_score", "id")


class CsvEventsSink(Sink):
    """One row per event, when it has ended, at the end of a file that rotates (class RotatingFile), under one row of
    names: at (when it was written, UTC), stream, label, t_start_s, t_end_s, duration_s, peak_score, id.

    Raises VlfError if the file cannot be written to.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 100_000_000, keep: int = 5):
        self._file = RotatingFile(Path(path), max_bytes=max_bytes, keep=keep, header=_row(_COLUMNS))

    @property
    def name(self) -> str:
        return str(self._file.path)

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        """Decisions are no rows."""

    def write_event(self, event: Event) -> None:
        if event.t_end_s is None:
            return
        values = event_to_json(event) | {"duration_s": round(event.t_end_s - event.t_start_s, 6)}
        self._file.write_line(_row([values[column] for column in _COLUMNS]))

    def close(self) -> None:
        self._file.close()


def _row(values: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([printable(value) for value in values])
    return line.getvalue().encode()
