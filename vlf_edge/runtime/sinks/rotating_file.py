"""A file that lines are appended to: whole lines only, and a bounded number of bytes in all."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ...atomic import check_replaceable
from ...errors import VlfError

_TAIL_BYTES = 1 << 20


class RotatingFile:
    """Appends lines to ``path``. Before one that would take it beyond ``max_bytes`` the file is renamed to ``path.1``,
    that to ``path.2`` and so on; of these ``keep`` are kept.

    Each line is handed to the system in one piece and unbuffered, so a process that is killed loses at most the line
    it was at. What a crash or a full disk left of one is cut off again. header: first line of every file. A file that
    was renamed or removed by others is made anew; one that another process appends to is refused. Raises VlfError if
    the file cannot be opened at first; later OSError, and the next line is another attempt.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, header: bytes = b""):
        if max_bytes < 1 or keep < 0:
            raise VlfError(f"max_bytes is {max_bytes} and keep {keep}; expected 1 or more, and 0 or more")
        self.path, self._max_bytes, self._keep, self._header = path, max_bytes, keep, header
        self._handle: int | None = None
        try:
            self._open()
        except OSError as error:
            raise VlfError(f"cannot write {path}: {error.strerror}") from None

    def write_line(self, line: bytes) -> None:
        """Appends a line, without its end. Raises OSError; the file is then as it was before, and opened anew for the
        next line."""
        try:
            if self._handle is None or self._moved():
                self.close()
                self._open()
            size = os.fstat(self._handle).st_size
            if size > self._start_bytes and size + len(line) + 1 > self._max_bytes:
                self._rotate()
            self._append(line)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    def _open(self) -> None:
        check_replaceable(self.path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._handle = os.open(self.path, flags, 0o666)
        try:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(errno.EBUSY, "another program is writing to it; give another name") from None
            except OSError:
                pass  # a file system without locks
            self._cut_off_half_a_line()
            if self._header and not os.fstat(self._handle).st_size:
                self._append(self._header)
        except BaseException:
            self.close()
            raise

    @property
    def _start_bytes(self) -> int:
        """What an empty file holds."""
        return len(self._header) + 1 if self._header else 0

    def _cut_off_half_a_line(self) -> None:
        size = os.fstat(self._handle).st_size
        tail = os.pread(self._handle, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(self._handle, size - len(tail) + tail.rfind(b"\n") + 1)

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._handle).st_size
        data = line + b"\n"
        try:
            if os.write(self._handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._handle, size)
            raise

    def _moved(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._handle), os.lstat(self.path))
        except FileNotFoundError:
            return True

    def _rotate(self) -> None:
        """From the oldest on, so that a process killed in between has lost none but that."""
        if self._keep == 0:
            os.ftruncate(self._handle, 0)
            if self._header:
                self._append(self._header)
            return
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(self._numbered(number), self._numbered(number + 1))
        os.replace(self.path, self._numbered(1))
        self.close()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
