"""Engines that were built on this machine, shared by all the processes of a user."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..cache import cache_folder, keep, read_kept

log = logging.getLogger(__name__)

_MOST_ENTRIES = 32
_MOST_BYTES = 2 << 30
_ABANDONED_S = 3600.0
_FORMAT = 2  # part of every key: another layout of the files, or another way to build, must not read these


def engine_key(**depends_on: Any) -> str:
    """Hex digest of everything an engine depends on: hash of its graph, library, version, GPU and build options."""
    return hashlib.sha256(json.dumps({"format": _FORMAT, **depends_on}, sort_keys=True).encode()).hexdigest()


class EngineCache:
    """A folder of engines by key. Of concurrent starts that need the same one, the first builds and the others wait.

    The newest 32 are kept, of 2 GiB at most; reading one makes it new. A folder that cannot be written costs the next
    start its time, never this one its engine.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or cache_folder("engines")

    def get(self, key: str) -> bytes | None:
        """The raw engine, or None if there is no sound one."""
        path = self._entry(key)
        data = read_kept(path)
        if data is not None:
            with suppress(OSError):  # another user's, perhaps: it can still be read
                os.utime(path)
        return data

    def get_or_build(self, key: str, build: Callable[[], bytes], *, refresh: bool = False) -> bytes:
        """The engine under ``key``; builds and keeps it if there is none. Raises what ``build`` raises.

        refresh: builds it even if there is one, unless another process has done just that since this call began.
        """
        before = self._identity(key)
        with self._locked(key):
            if not refresh or self._identity(key) != before:
                data = self.get(key)
                if data is not None:
                    return data
            data = build()
            if keep(self._entry(key), data):
                self._prune()
            return data

    def _entry(self, key: str) -> Path:
        return self.folder / f"{key}.engine"

    def _identity(self, key: str) -> int | None:
        try:
            return self._entry(key).stat().st_ino
        except OSError:
            return None

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Holds the lock of a key; the system frees it should this process be killed."""
        try:
            handle = self._lock(key)
        except OSError as error:  # an unwritable folder, or a file system without locks: then each builds for itself
            log.debug("no lock in %s: %s", self.folder, error)
            handle = None
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def _lock(self, key: str, wait: bool = True) -> int:
        """Descriptor of the locked file. Raises OSError, and BlockingIOError where it would have to ``wait``."""
        path = self.folder / f"{key}.lock"
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._wait_for(handle, wait)
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # the entry was thrown away while we waited, and its lock with it

    def _wait_for(self, handle: int, wait: bool) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            log.warning("another start on this machine is building this engine: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)

    def _prune(self) -> None:
        """Throws away the oldest entries beyond the bounds, and what killed processes left half written."""
        with suppress(OSError):
            found = [(path.stat(), path) for path in self.folder.glob("*.engine")]
            total_bytes = 0
            for rank, (stat, path) in enumerate(sorted(found, key=lambda entry: -entry[0].st_mtime_ns)):
                total_bytes += stat.st_size
                if rank > 0 and (rank >= _MOST_ENTRIES or total_bytes > _MOST_BYTES):
                    self._forget(path.stem)
            for partial in self.folder.glob(".partial-*"):
                if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                    partial.unlink()

    def _forget(self, key: str) -> None:
        try:
            handle = self._lock(key, wait=False)
        except BlockingIOError:  # it is being built anew
            return
        try:
            self._entry(key).unlink(missing_ok=True)
            (self.folder / f"{key}.lock").unlink(missing_ok=True)
        finally:
            os.close(handle)
