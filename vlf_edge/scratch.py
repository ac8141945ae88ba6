"""Folders for the time of one task."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from . import signals
from .atomic import PARTIAL_PREFIX, sweep


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[str]:
    """A new folder that goes with the block. parent: the folder it is made in (default: the system's for such)."""
    with ExitStack() as stack:
        with signals.unbroken():
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
            stack.enter_context(signals.clearing(folder.cleanup))
        yield stack.enter_context(folder)


@contextmanager
def partial_folder(parent: Path) -> Iterator[str]:
    """A new folder in ``parent`` that goes with the block or, should its process be killed, with the next such folder
    or file made there (see ``atomic.Replacement``). Raises OSError."""
    sweep(parent)
    with scratch_folder(PARTIAL_PREFIX, parent) as folder:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks: what is left there stays
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(handle)
