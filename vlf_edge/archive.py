"""The ZIP file of a plan, read without trust: what it claims is bounded before it is read, and read from one handle."""

from __future__ import annotations

import os
import re
import stat
import struct
import weakref
import zipfile
import zlib
from pathlib import Path

from . import strict_json
from .errors import PlanError

MAX_MEMBERS = 256
MAX_MEMBER_BYTES = 2 << 30
MAX_TOTAL_BYTES = 4 << 30
_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_DIRECTORY_BYTES = MAX_MEMBERS * 256  # an entry has 46 bytes, a name of up to 100 and, in large files, 32 more

_END = struct.Struct("<4s4H2LH")  # end of the central directory, without comment: the last bytes of the file
_END_64 = struct.Struct("<4sQ2H2L4Q")  # the same for files beyond 2 GiB, followed by its locator, before the former
_LOCATOR_64_BYTES = 20
_LOCAL = struct.Struct("<4s5H3L2H")  # in front of each member


class Archive:
    """A plan's members by name. The file is opened once: one that is put in its place meanwhile changes nothing.

    sizes: bytes of each member. ``read`` may be called from several threads, and in forked processes.
    Raises PlanError for what is no regular file, no ZIP, or not one as a plan is.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle = _open(path)
        weakref.finalize(self, os.close, self._handle)
        size_bytes = _check_directory(path, self._handle)
        self._infos = _members(path, self._handle)
        self.sizes = {name: info.file_size for name, info in self._infos.items()}
        if sum(self.sizes.values()) > min(size_bytes, MAX_TOTAL_BYTES):
            raise PlanError(
                f"{path} claims {sum(self.sizes.values())} bytes in all; it has {size_bytes}, the limit is "
                f"{MAX_TOTAL_BYTES}"
            )

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises PlanError if they are not there as the ZIP says."""
        try:
            info = self._infos[name]
            header = _LOCAL.unpack(self._bytes(info.header_offset, _LOCAL.size))
            name_at = info.header_offset + _LOCAL.size
            name_bytes, extra_bytes = header[-2:]
            if header[0] != b"PK\x03\x04" or self._bytes(name_at, name_bytes) != info.filename.encode():
                raise ValueError("there is no such member where the directory says")
            data = self._bytes(name_at + name_bytes + extra_bytes, info.file_size)
            if zlib.crc32(data) != info.CRC:
                raise ValueError("wrong checksum")
        except (KeyError, OSError, OverflowError, ValueError, struct.error) as error:
            raise PlanError(f"{self.path} is damaged: cannot read {name} ({error}); build it again") from None
        return data

    def _bytes(self, start: int, count: int) -> bytes:
        parts = []
        while count:
            part = os.pread(self._handle, min(count, 1 << 30), start)
            if not part:
                raise ValueError("the file is too short")
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _open(path: Path) -> int:
    try:
        # Without O_NONBLOCK a named pipe would be waited for, before it can be told from a file.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PlanError(f"no plan at {path}; vlf-edge build makes one: see vlf-edge build --help") from None
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise PlanError(f"{path} is a {_kind(mode)}, not a vlf.plan file")
    return handle


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "named pipe" if stat.S_ISFIFO(mode) else "device"


def _check_directory(path: Path, handle: int) -> int:
    """Bounds what the ZIP says of itself before anything is parsed. Returns the size of the file in bytes."""
    size_bytes = os.fstat(handle).st_size
    tail_bytes = min(size_bytes, _END_64.size + _LOCATOR_64_BYTES + _END.size)
    tail = os.pread(handle, tail_bytes, size_bytes - tail_bytes)
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\x05\x06"):
        raise PlanError(f"{path} is not a readable vlf.plan: truncated or another kind of file")
    *_, count, directory_bytes, _, comment_bytes = _END.unpack(end)
    if tail[-_END.size - _LOCATOR_64_BYTES :].startswith(b"PK\x06\x07"):
        if len(tail) < tail_bytes or not tail.startswith(b"PK\x06\x06"):
            raise PlanError(f"{path} is not a readable vlf.plan: its ZIP64 directory is not where it should be")
        *_, count, directory_bytes, _ = _END_64.unpack(tail[: _END_64.size])
    if count > MAX_MEMBERS or directory_bytes > _MAX_DIRECTORY_BYTES or comment_bytes:
        raise PlanError(
            f"{path} has {count} members in a directory of {directory_bytes} bytes and a comment of {comment_bytes}; "
            f"a vlf.plan has at most {MAX_MEMBERS} members, {_MAX_DIRECTORY_BYTES} bytes and no comment"
        )
    return size_bytes


def _members(path: Path, handle: int) -> dict[str, zipfile.ZipInfo]:
    try:
        with open(handle, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError, struct.error) as error:
        raise PlanError(f"{path} is not a readable vlf.plan (truncated or another kind of file): {error}") from None
    if len(infos) > MAX_MEMBERS:
        raise PlanError(f"{path} has {len(infos)} members; a vlf.plan has at most {MAX_MEMBERS}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if not _MEMBER_NAME.fullmatch(name):
            raise PlanError(f"{path} has a member with an unsafe name {name[:80]!r}; this is not a vlf.plan")
        if name in members:
            raise PlanError(f"{path} has two members named {name}; this is not a vlf.plan")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise PlanError(f"{path}: member {name} is compressed or encrypted; a vlf.plan stores its members")
        limit = strict_json.MAX_BYTES if name.endswith(".json") else MAX_MEMBER_BYTES
        if info.file_size > limit:
            raise PlanError(f"{path}: member {name} claims {info.file_size} bytes; the limit is {limit}")
        members[name] = info
    return members
