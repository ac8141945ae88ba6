"""Progress for people, on stderr: one line that rewrites itself on a terminal, one line per finished step elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from ..printable import printable


class Progress:
    """Callable with (what, done, total), as ``compiler.build`` reports it."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty()
        self._what = ""
        self._start_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._start_s = what, time.monotonic()
        elapsed_s = time.monotonic() - self._start_s
        if done >= total:
            self._write(f"{what}: {total} in {elapsed_s:.1f} s", end="\n")
            self._what = ""
        elif self._rewrites:
            self._write(f"{what}: {done}/{total} {elapsed_s:.0f} s", end="")

    def _write(self, text: str, end: str) -> None:
        text = printable(text)
        self._stream.write(f"\r\x1b[K{text}{end}" if self._rewrites else f"{text}{end}")
        self._stream.flush()
