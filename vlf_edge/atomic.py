"""Files that are complete or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from . import signals

PARTIAL_PREFIX = ".vlf-edge-partial-"
_NEW_FILE = 0o666  # less what the user's umask takes away


class Replacement:
    """A new file that is to take the place of ``path``: written beside it, and moved there in one step.

    path: of nothing, or of a regular file, whose permissions the new one takes over; a device, a FIFO, a folder or a
    symbolic link is never replaced, nor followed. mode: permissions to give it instead. partial: where the new file
    lies meanwhile; it ends as ``path`` does. file: open for writing; ``partial`` may also be written by its name.

    While it lives, its process holds a lock on it. A partial file that nobody holds was left by a process that was
    killed: it is removed by the next Replacement in the same folder. Raises OSError as writing does.
    """

    def __init__(self, path: Path, mode: int | None = None):
        self.path = path
        found = _what_is_replaced(path)
        sweep(path.parent)
        self._clearing = ExitStack()
        with signals.unbroken():
            self.partial, handle = _new_partial(path)
            self.file: BinaryIO = os.fdopen(handle, "wb")
            self._clearing.enter_context(signals.clearing(self.discard))
        if mode is not None or found is not None:
            with self._or_discarded():
                os.fchmod(handle, stat.S_IMODE(found.st_mode) & 0o777 if mode is None else mode)

    def commit(self) -> None:
        """Puts the file in its place, on the disk too, so that neither a crash nor a power cut leaves half of it."""
        with self._or_discarded():
            self.file.flush()
            os.fsync(self.file.fileno())
            _what_is_replaced(self.path)  # minutes may have passed
            with signals.unbroken():
                os.replace(self.partial, self.path)
                self._clearing.close()
        self.file.close()
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Leaves what was there before; without effect after ``commit``."""
        if not self.file.closed:
            self._clearing.close()
            self.partial.unlink(missing_ok=True)
            with suppress(OSError):  # a full disk, which what is thrown away need not fit on
                self.file.close()

    @contextmanager
    def _or_discarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.discard()
            raise


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends, and leaves no trace if it fails.

    See ``Replacement``. Raises OSError as writing does.
    """
    new = Replacement(path, mode)
    try:
        yield new.file
        new.commit()
    finally:
        new.discard()


def check_replaceable(path: Path) -> None:
    """Raises OSError if ``path`` is something else than a regular file or nothing."""
    _what_is_replaced(path)


def open_regular(path: Path, flags: int = 0) -> int:
    """A descriptor of a regular file, to be read. Raises OSError for anything else; a FIFO keeps nobody waiting."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise _refusal(path, mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _what_is_replaced(path: Path) -> os.stat_result | None:
    """The regular file at ``path``; None if there is none. Raises OSError for anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise _refusal(path, found.st_mode)
    return found


def _refusal(path: Path, mode: int) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISLNK(mode):
        return OSError(errno.ELOOP, f"it is a symbolic link to {os.readlink(path)}; name the file itself", str(path))
    return OSError(errno.EINVAL, "it is a device, a FIFO or a socket, not a file", str(path))


def _new_partial(path: Path) -> tuple[Path, int]:
    """A new, empty, locked file beside ``path``, and its descriptor."""
    while True:
        partial = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(6)}{path.suffix[:16]}"
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _NEW_FILE)
        try:
            with suppress(OSError):  # a file system without locks: what is left there stays
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Between its making and its locking somebody may have taken it for a left one.
            if os.path.samestat(os.fstat(handle), os.stat(partial)):
                return partial, handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def sweep(folder: Path) -> None:
    """Removes the partial files, and folders, of processes that were killed: those whose lock is free."""
    with suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(PARTIAL_PREFIX)]
        for path in left:
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path) if stat.S_ISDIR(os.fstat(handle).st_mode) else os.unlink(path)
                finally:
                    os.close(handle)


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk too. Some file systems cannot; the file is in its place all the same."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
