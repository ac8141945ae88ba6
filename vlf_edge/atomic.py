"""Files that are complete or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from . import signals


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends, and leaves no trace if it fails.

    Raises OSError as writing does.
    """
    with ExitStack() as stack:
        with signals.unbroken():
            handle, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
            stack.enter_context(signals.clearing(Path(partial).unlink))
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
