"""Engines that were built on this machine, shared by all the processes of a user."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..cache import cache_folder, keep, locked, read_kept, remove_unless_locked

_MOST_ENTRIES = 32
_MOST_BYTES = 2 << 30
_FORMAT = 3  # part of every key: another layout of the files, or another way to build, must not read these


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
            with suppress(OSError):  # root's, perhaps
                os.utime(path)
        return data

    def get_or_build(self, key: str, build: Callable[[], bytes], *, refresh: bool = False) -> bytes:
        """The engine under ``key``; builds and keeps it if there is none. Raises what ``build`` raises.

        refresh: builds it even if there is one, unless another process has done just that since this call began.
        """
        before = self._identity(key)
        with locked(self._entry(key), "building this engine"):
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

    def _prune(self) -> None:
        """Throws away the oldest entries beyond the bounds."""
        with suppress(OSError):
            found = [(path.stat(), path) for path in self.folder.glob("*.engine")]
            total_bytes = 0
            for rank, (stat, path) in enumerate(sorted(found, key=lambda entry: -entry[0].st_mtime_ns)):
                total_bytes += stat.st_size
                if rank > 0 and (rank >= _MOST_ENTRIES or total_bytes > _MOST_BYTES):
                    remove_unless_locked(path)
