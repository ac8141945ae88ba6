"""What is kept from one start to the next: where it lies, and files that prove themselves when they are read.

A cache may cost time when it fails, never the work: what cannot be written is told and forgotten, what is damaged is
told and made anew. What it keeps decides what a plan answers, and an engine is code for the GPU: only files are
believed that this user alone (or root) can have written, and that were kept under the name they are found by.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .atomic import open_regular, replacing

log = logging.getLogger(__name__)
_DIGEST_BYTES = 65  # 64 hexadecimal digits and a line end


def cache_folder(kind: str) -> Path:
    """Where things of one kind lie: $XDG_CACHE_HOME/vlf_edge/KIND, by default ~/.cache/vlf_edge/KIND.

    kind: "engines", "timings", "kernels", "ranges" or "answers". The folder need not exist, nor be writable.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # by its specification, a relative one is to be ignored
        return Path(chosen) / "vlf_edge" / kind
    try:
        return Path.home() / ".cache" / "vlf_edge" / kind
    except RuntimeError:  # a user without a home, as in containers
        return _folder_without_home() / kind


def keep(path: Path, data: bytes) -> bool:
    """Writes data after the SHA-256 of the file's name and of data, complete or not at all; makes the folder.

    The name is what the data are found by: it must hold, or be the hash of, all they depend on. False, with a warning,
    if it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path, mode=0o600) as file:
            file.write(_digest(path, data))
            file.write(data)
    except OSError as error:
        log.warning("cannot keep %s for the next start: %s", path, error.strerror)
        return False
    return True


def read_kept(path: Path) -> bytes | None:
    """What ``keep`` wrote there; None if there is nothing, or, with a warning, if it is damaged, is the content of
    another name, or can have been written by another user."""
    try:
        handle = open_regular(path, os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            distrust = _distrust(os.fstat(handle))
            raw = b"" if distrust else file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        log.warning("cannot read %s, which is made anew: %s", path, error.strerror)
        return None
    data = raw[_DIGEST_BYTES:]
    if not distrust and raw[:_DIGEST_BYTES] != _digest(path, data):
        distrust = "is damaged"
    if distrust:
        log.warning("%s %s and is made anew", path, distrust)
        with suppress(OSError):  # so that this is said once
            path.unlink()
        return None
    return data


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """While one process or thread is in the block, others that lock the same path wait, and say that they do.

    path: of the thing to be made; the lock is a file beside it that is gone when nobody needs it. what: is being done,
    for the log. Should its holder be killed, the system frees it. Where no lock can be had, nobody waits.
    """
    try:
        handle = _lock(path, what)
    except OSError as error:  # an unwritable folder, or a file system without locks: then each works for itself
        log.debug("no lock in %s: %s", path.parent, error)
        handle = None
    try:
        yield
    finally:
        if handle is not None:
            _unlock(path, handle)


def remove_unless_locked(path: Path) -> None:
    """Removes what is kept there, but not while somebody makes it anew. Raises OSError as removing does."""
    try:
        handle = _lock(path)
    except BlockingIOError:
        return
    try:
        path.unlink(missing_ok=True)
    finally:
        _unlock(path, handle)


def _digest(path: Path, data: bytes) -> bytes:
    digest = hashlib.sha256(os.fsencode(path.name) + b"\n")
    digest.update(data)
    return digest.hexdigest().encode() + b"\n"


def _distrust(found: os.stat_result) -> str:
    """Why a file may be another user's work; "" if it cannot."""
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (number {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path, what: str | None = None) -> int:
    """Descriptor of the locked file beside ``path``.

    what: is being done by whoever holds it, for the log; None: raises BlockingIOError instead of waiting. Raises
    OSError if there can be no lock.
    """
    lock = _lock_file(path)
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    said = False
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if what is None:
                    raise
                if not said:
                    log.warning("another start on this machine is %s: waiting for it", what)
                said = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder removed the file while we waited


def _unlock(path: Path, handle: int) -> None:
    with suppress(OSError):  # before it is freed: whoever waits for it sees that the file is gone, and makes another
        _lock_file(path).unlink()
    os.close(handle)


@functools.cache
def _folder_without_home() -> Path:
    """A folder under /tmp that nobody else can have put files into: an engine is code for the GPU."""
    folder = Path(tempfile.gettempdir()) / f"vlf_edge-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return Path(tempfile.mkdtemp(prefix="vlf_edge-"))  # for this process only
    except OSError as error:
        log.debug("no folder to keep things in: %s", error)
    return folder
