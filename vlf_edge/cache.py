"""What is kept from one start to the next: where it lies, and files that prove themselves when they are read.

A cache may cost time when it fails, never the work: what cannot be written is told and forgotten, what is damaged is
told and made anew.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from .atomic import replacing

log = logging.getLogger(__name__)
_DIGEST_BYTES = 65  # 64 hexadecimal digits and a line end


def cache_folder(kind: str) -> Path:
    """Where things of one kind lie: $XDG_CACHE_HOME/vlf_edge/KIND, by default ~/.cache/vlf_edge/KIND.

    kind: "engines", "timings", "kernels" or "ranges". The folder need not exist, nor be writable.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # by its specification, a relative one is to be ignored
        return Path(chosen) / "vlf_edge" / kind
    try:
        return Path.home() / ".cache" / "vlf_edge" / kind
    except RuntimeError:  # a user without a home, as in containers
        return _folder_without_home() / kind


def keep(path: Path, data: bytes) -> bool:
    """Writes data after its SHA-256, complete or not at all; makes the folder. False, with a warning, if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(hashlib.sha256(data).hexdigest().encode() + b"\n")
            file.write(data)
    except OSError as error:
        log.warning("cannot keep %s for the next start: %s", path, error.strerror)
        return False
    return True


def read_kept(path: Path) -> bytes | None:
    """What ``keep`` wrote; None if there is nothing, or, with a warning, if it is damaged."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read %s, which is made anew: %s", path, error.strerror)
        return None
    data = raw[_DIGEST_BYTES:]
    if raw[:_DIGEST_BYTES] != hashlib.sha256(data).hexdigest().encode() + b"\n":
        log.warning("%s is damaged and is made anew", path)
        with suppress(OSError):  # so that this is said once
            path.unlink()
        return None
    return data


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
