"""Folders for the time of one task."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import signals


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[str]:
    """A new folder that goes with the block. parent: the folder it is made in (default: the system's for such)."""
    with ExitStack() as stack:
        with signals.unbroken():
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
            stack.enter_context(signals.clearing(folder.cleanup))
        yield stack.enter_context(folder)
