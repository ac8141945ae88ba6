"""What goes on at this moment, in one line of a terminal that rewrites itself; and what happened, in lines above it."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from ..printable import printable


class StatusLine:
    """On stderr. Where that is no terminal, only what happened is told. Use it as a context manager: the line goes at
    the end."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        """Puts it in place of what was shown, cut to the width of the terminal: a longer one could not be rewritten."""
        text = printable(text)[: shutil.get_terminal_size().columns - 1]
        if self._rewrites and text != self._shown:
            self._write(f"\r\x1b[K{text}")
            self._shown = text

    def tell(self, text: str) -> None:
        """A line that stays."""
        clear, again = ("\r\x1b[K", self._shown) if self._rewrites else ("", "")
        self._write(f"{clear}{printable(text)}\n{again}")

    def ring(self) -> None:
        """The terminal's bell: for those who look elsewhere."""
        if self._rewrites:
            self._write("\a")

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *exc_info) -> None:
        self.show("")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
