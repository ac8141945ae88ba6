"""Keys of a terminal as they are pressed, without Enter."""

from __future__ import annotations

import codecs
import os
import select
import sys
from contextlib import ExitStack, suppress
from typing import TextIO

from .. import signals


class Keyboard:
    """The terminal behind stdin, if there is one; as a context manager. It is given back as it was, whatever ends the
    program: an error and a signal, too. Ctrl-C stays a signal."""

    def __init__(self, stream: TextIO | None = None):
        stream = stream or sys.stdin
        self.present = stream is not None and not stream.closed and stream.isatty()
        self._handle = stream.fileno() if self.present else -1
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stack = ExitStack()

    def read(self) -> str:
        """What was pressed since, "" if nothing; never waits."""
        if not self.present or not select.select([self._handle], [], [], 0)[0]:
            return ""
        keys = os.read(self._handle, 1024)
        self.present = bool(keys)  # a terminal that is gone is always ready, with nothing
        return self._decode(keys)

    def __enter__(self) -> Keyboard:
        if self.present:
            import termios
            import tty

            before = termios.tcgetattr(self._handle)

            def restore() -> None:
                with suppress(termios.error):
                    termios.tcsetattr(self._handle, termios.TCSADRAIN, before)

            with signals.unbroken():
                self._stack.enter_context(signals.clearing(restore))
                self._stack.callback(restore)
                tty.setcbreak(self._handle, termios.TCSADRAIN)
        return self

    def __exit__(self, *exc_info) -> None:
        self._stack.close()
